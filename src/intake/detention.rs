//! Detention: what could not be accepted as it came is kept apart where its source wants that, and judged anew once the
//! configuration is mended.
//!
//! *Invariants.* Nothing that is kept apart is delivered. Tokens are not kept. A signature is judged anew by the moment at
//! which the request first came. What was readmitted has that moment as its time of arrival.
//!
//! *Failure.* Where there is no room, the request is refused as if nothing were kept.

use super::refusal::Refusal;
use super::{Intake, Source};
use crate::config::settings::OnFault;
use crate::http::answer::{self, Answer};
use crate::profile::{Fields, Found, Request};
use crate::store::{Arrival, Cause, Detained, StoreError};
use bytes::Bytes;
use form_urlencoded::Serializer;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::json;

/// What became of a detained request that was judged anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It would pass, or has: so many events.
    Passes(usize),
    StillBad(Cause),
    /// Its source is not configured any more.
    SourceGone,
}

impl Intake {
    /// Keeps a request apart where its source wants that; else the refusal stands.
    pub(super) async fn detain(
        &self,
        source: &Source,
        head: &Parts,
        body: &Bytes,
        cause: Cause,
        refusal: Refusal,
    ) -> Result<Answer, Refusal> {
        if source.on_fault(cause) == OnFault::Refuse {
            return Err(refusal);
        }
        let detained = self.detained(source, head, body, cause);
        match self.store.detain(detained, self.detained_bytes_max).await {
            Ok(Some(number)) => {
                tracing::warn!(source = source.name, cause = cause.word(), number, "a request is kept apart");
                Ok(answer::json(self.bounds.success, &json!({"status": "quarantined"})))
            }
            Ok(None) => {
                tracing::error!(source = source.name, cause = cause.word(), "the quarantine is full");
                Err(refusal)
            }
            Err(_) => Err(Refusal::failed()),
        }
    }

    fn detained(&self, source: &Source, head: &Parts, body: &Bytes, cause: Cause) -> Detained {
        let (secret_headers, secret_parameters) = source.guard.token_places();
        let kept = head.headers.iter().filter(|(name, _)| !secret_headers.contains(name));
        let query = head.uri.query().map(|query| {
            let pairs =
                form_urlencoded::parse(query.as_bytes()).filter(|(k, _)| !secret_parameters.contains(&k.as_ref()));
            Serializer::new(String::new()).extend_pairs(pairs).finish()
        });
        Detained {
            at: self.clock.now(),
            source: source.name.clone(),
            cause,
            headers: kept.map(|(name, value)| (name.as_str().to_owned(), value.as_bytes().to_vec())).collect(),
            query,
            body: body.to_vec(),
        }
    }

    /// What a detained request is by today's configuration, and its events where it passes.
    pub fn judge(&self, detained: &Detained) -> (Verdict, Vec<Arrival>) {
        let Some(source) = self.sources.get(&detained.source) else { return (Verdict::SourceGone, Vec::new()) };
        let headers: HeaderMap = detained.headers.iter().filter_map(|(name, value)| header(name, value)).collect();
        let (query, body) = (detained.query.as_deref(), Bytes::copy_from_slice(&detained.body));
        // whose body could not be read had shown who it was, with a token that was not kept
        let must_prove = detained.cause == Cause::BadSignature;
        if must_prove && !source.guard.standing(&headers, query, detained.at).admits(&body) {
            return (Verdict::StillBad(Cause::BadSignature), Vec::new());
        }
        let read = Request { headers: &headers, query, body: &body };
        let fields = match source.profile.read(&read, &self.limits()) {
            Ok(Found::One(fields)) => vec![fields],
            Ok(Found::Batch(all)) => all,
            Ok(Found::Dropped { .. }) => Vec::new(),
            Err(_) => return (Verdict::StillBad(Cause::Unparsable), Vec::new()),
        };
        let arrivals: Vec<_> = fields.into_iter().filter_map(|f| source.arrival(&headers, f, detained.at)).collect();
        (Verdict::Passes(arrivals.len()), arrivals)
    }

    /// Whether a detained request holds an event of this interaction; where it cannot be read, whether the key stands in
    /// it as a whole string, in the body, a header or the query.
    pub fn concerns(&self, detained: &Detained, key: &str) -> bool {
        let headers: HeaderMap = detained.headers.iter().filter_map(|(name, value)| header(name, value)).collect();
        let (query, body) = (detained.query.as_deref(), Bytes::copy_from_slice(&detained.body));
        let read = Request { headers: &headers, query, body: &body };
        let source = self.sources.get(&detained.source);
        let is_of = |fields: &Fields| fields.interaction.as_deref() == Some(key);
        match source.and_then(|source| source.profile.read(&read, &self.limits()).ok()) {
            Some(Found::One(fields)) if fields.interaction.is_some() => return is_of(&fields),
            Some(Found::Batch(all)) => return all.iter().any(is_of),
            _ => {}
        }
        let quoted = json!(key).to_string();
        let in_body = detained.body.windows(quoted.len()).any(|window| window == quoted.as_bytes());
        let in_query = || form_urlencoded::parse(query.unwrap_or_default().as_bytes()).any(|(_, v)| v == key);
        in_body || in_query() || detained.headers.iter().any(|(_, value)| value == key.as_bytes())
    }

    /// Lets a detained request in, if it passes now; none where it is not there any more.
    pub async fn readmit(&self, number: u64, detained: &Detained) -> Result<Option<Verdict>, StoreError> {
        let (verdict, arrivals) = self.judge(detained);
        match verdict {
            Verdict::Passes(_) => Ok(self.store.let_in(number, arrivals).await?.map(|_| verdict)),
            Verdict::StillBad(_) | Verdict::SourceGone => Ok(Some(verdict)),
        }
    }
}

fn header(name: &str, value: &[u8]) -> Option<(HeaderName, HeaderValue)> {
    Some((name.parse().ok()?, HeaderValue::from_bytes(value).ok()?))
}
