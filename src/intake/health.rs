//! `GET /healthz` on the port of intake, for load balancers: whether events are accepted here.
//!
//! *Invariants.* It follows admission and says no more than why events are refused. At a stop it says so as soon as the stop
//! begins, while events are still accepted, so that a load balancer goes elsewhere before the door closes. It is no event: it
//! needs no token and is not counted. No source is shadowed by it, since those lie under `/in/`.

use super::Intake;
use crate::net::answer::{self, Answer};
use http::{Method, StatusCode, header};
use serde_json::json;

pub const PATH: &str = "/healthz";
/// A store that has failed ends the daemon; the next one is there in a moment.
const FAILED_RETRY_AFTER: u32 = 2;

impl Intake {
    pub(super) fn health(&self, method: &Method) -> Answer {
        if !matches!(*method, Method::GET | Method::HEAD) {
            let refused = answer::error(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "ask with GET or HEAD");
            return answer::with(refused, header::ALLOW, "GET, HEAD");
        }
        let state = self.admission.announced();
        let answer = match state.code() {
            Some(code) => unhealthy(code, state.message(), state.retry_after()),
            None if self.store.failure().borrow().is_some() => {
                unhealthy("store_failed", "the store has failed; the service ends", FAILED_RETRY_AFTER)
            }
            None => answer::json(StatusCode::OK, &json!({"status": "ok"})),
        };
        answer::with(answer, header::CACHE_CONTROL, "no-store")
    }
}

fn unhealthy(code: &str, message: &str, retry_after: u32) -> Answer {
    let refused = answer::error(StatusCode::SERVICE_UNAVAILABLE, code, message);
    answer::with(refused, header::RETRY_AFTER, &retry_after.to_string())
}
