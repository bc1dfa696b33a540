//! An error response; every error has the same form: `{"error":{"code":"...","message":"..."}}`.

use crate::store::StoreError;
use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::collections::BTreeMap;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, Response as Described, ResponseBuilder};
use utoipa::{IntoResponses, ToSchema};

/// The body of every answer that is not a success.
#[derive(Debug, Serialize, ToSchema)]
pub struct Refused {
    error: Reasoned,
}

/// What went wrong: a word for programs and a sentence for people.
#[derive(Debug, Serialize, ToSchema)]
pub struct Reasoned {
    code: String,
    message: String,
}

#[derive(Debug)]
pub struct Failure {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl Failure {
    fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }

    pub fn bad(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", message)
    }

    pub fn unauthorized() -> Self {
        let message = "send `Authorization: Bearer TOKEN`; the token is in the data folder, in `admin.token`, if none is \
                       configured";
        Self::new(StatusCode::UNAUTHORIZED, "unauthorized", message)
    }

    pub fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", message)
    }

    /// None if the failure is "not found".
    pub fn unless_not_found<T>(self) -> Result<Option<T>, Self> {
        if self.status == StatusCode::NOT_FOUND { Ok(None) } else { Err(self) }
    }

    pub fn method() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this path does not take that method")
    }

    /// The request conflicts with the current state.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, "conflict", message)
    }

    pub fn timeout(message: impl Into<String>) -> Self {
        Self::new(StatusCode::REQUEST_TIMEOUT, "body_timeout", message)
    }

    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", message)
    }
}

impl From<StoreError> for Failure {
    fn from(e: StoreError) -> Self {
        match e {
            StoreError::Damaged(why) => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "damaged",
                format!("a stored record does not verify: {why}"),
            ),
            e => Self::unavailable(e.to_string()),
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = self.status;
        let error = Reasoned { code: self.code.to_owned(), message: self.message };
        let mut response = (status, Json(Refused { error })).into_response();
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// Documents the failures of each authenticated path.
impl IntoResponses for Failure {
    fn responses() -> BTreeMap<String, RefOr<Described>> {
        let described = |(status, about): (&str, &str)| {
            let content = ContentBuilder::new().schema(Some(Ref::from_schema_name("Refused"))).build();
            let response = ResponseBuilder::new().description(about).content("application/json", content).build();
            (status.to_owned(), RefOr::T(response))
        };
        [
            ("400", "The request cannot be understood; nothing was changed"),
            ("401", "No token, or one that is not known"),
            ("403", "The token's scopes do not cover this, or the request comes from another site"),
            ("404", "There is no such thing"),
            ("409", "It cannot be done as things stand now"),
            ("500", "A stored record does not verify"),
            ("503", "The daemon is stopping or its store has failed"),
        ]
        .map(described)
        .into()
    }
}
