//! The events that are posted: 1.1 KiB of the `interaction` shape, unique ids, 10,000 interactions.

use std::fmt::Write;

/// Interactions that the events of one run belong to.
const INTERACTIONS: u64 = 10_000;

/// Length of every body.
const BODY_BYTES: usize = 1126;

/// Writes requests into a buffer that is used again, so that making them costs little.
pub(crate) struct Requests {
    run: String,
    host: String,
    path: String,
    body: String,
}

impl Requests {
    /// `run` keeps the ids of one run apart from those of every other.
    pub(crate) fn new(run: String, host: String, path: String) -> Self {
        Self { run, host, path, body: String::with_capacity(BODY_BYTES) }
    }

    /// Writes the whole request for event `n` into `out`.
    pub(crate) fn write(&mut self, n: u64, out: &mut String) {
        let (run, interaction) = (&self.run, n % INTERACTIONS);
        self.body.clear();
        let _ = write!(
            self.body,
            "{{\"eventType\":\"interaction.updated\",\"eventId\":\"{run}-{n}\",\"timestamp\":1715634000000,\"data\":{{\
             \"id\":\"{run}-{n}\",\"interactionId\":\"{run}-call-{interaction}\",\"n\":{n},\"transcript\":\""
        );
        while self.body.len() < BODY_BYTES - 3 {
            let missing = BODY_BYTES - 3 - self.body.len();
            let words = "the customer asks where the order is and the agent looks it up ";
            self.body.push_str(&words[..missing.min(words.len())]);
        }
        self.body.push_str("\"}}");
        out.clear();
        let (host, path, length) = (&self.host, &self.path, self.body.len());
        let _ = write!(
            out,
            "POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n"
        );
        out.push_str(&self.body);
    }
}

/// A name that no other run has.
pub(crate) fn run_name() -> String {
    format!("{:08x}", fastrand::u32(..))
}
