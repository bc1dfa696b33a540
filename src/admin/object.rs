//! Accepts a JSON object and nothing else. Serde also reads structs from arrays by position, and an empty array would be a
//! filter that fits everything.

use serde::de::{DeserializeOwned, Error};
use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

#[derive(Clone, Debug)]
pub struct Object<T>(pub T);

impl<'de, T: DeserializeOwned> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let map = Map::<String, Value>::deserialize(from)?;
        T::deserialize(Value::Object(map)).map(Self).map_err(D::Error::custom)
    }
}
