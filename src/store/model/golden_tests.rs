//! Records byte for byte as released versions have written them, and the size limits of full rows.

use super::audit::Audit;
use super::codec::{self, Kind};
use super::delta_encoding;
use super::destination::{
    BreakerOverride, DestinationOverrides, PacingState, Pause, Position, Redrive, RedriveEnd, RedriveEnded,
    RedriveResults, StoppedBy,
};
use super::event_record::{self, pack, seal_page};
use super::record::*;
use super::table::ROW_MAX;
use crate::clock::ClockReference;
use crate::delivery::{Attempt, DeadLetter, Delivery, DeliveryId, Outcome, Reason};
use crate::event::{DestinationId, DestinationSet, Digest64, Event, ForwardedHeaders, Sequence};
use crate::rules::rate::Rate;
use crate::time::Timestamp;
use std::num::NonZeroU32;
use std::time::Duration;

fn entry() -> Entry {
    Entry {
        sender: Digest64(1),
        body: Digest64(2),
        interaction_hash: Digest64(3),
        time: Timestamp(4),
        received_at: Timestamp(5),
        source: 6,
        kind: 7,
        to: DestinationSet(8),
        size: 9,
        prior: Sequence(10),
    }
}

fn settlement() -> Settlement {
    let id = DeliveryId { sequence: Sequence(1), destination: DestinationId(2) };
    Settlement { id, how: EndKind::Dead, attempts: 3, status: 503, at: Timestamp(4) }
}

#[test]
fn a_full_row_fits_its_limit() {
    let shape = PageShape { count: 1, bytes: 1 };
    let n = HistoryRow::ENTRIES_MAX;
    let history = HistoryRow { pages: vec![shape; n], entries: vec![entry(); n] };
    assert!(codec::encode(Kind::History, &history).len() <= ROW_MAX);
    let settled = SettledRow { settlements: vec![settlement(); SettledRow::SETTLEMENTS_MAX] };
    assert!(codec::encode(Kind::Settled, &settled).len() <= ROW_MAX);
}

/// Records of existing stores must stay readable for ever; a changed format needs a new version of the record.
#[test]
fn version_1_has_its_golden_bytes() {
    let history = HistoryRow { pages: vec![PageShape { count: 1, bytes: 300 }], entries: vec![entry()] };
    let settled = SettledRow { settlements: vec![settlement()] };
    let mut totals = Totals { accepted: 3, ..Totals::default() };
    totals.counters_mut(DestinationId(1)).delivered = 2;
    let dead_letter = DeadLetter { delivery: delivery(), reason: Reason::Permanent, dead_at: Timestamp(9) };
    let mut page = Vec::new();
    pack(&mut page, &codec::payload(&*delivery().event));
    let hold = Hold { until: Timestamp(7), reason: "Retry-After".to_owned() };
    let audit = audit(None);
    let set_aside = DamagedRecord {
        at: Timestamp(1),
        table: "dlq".to_owned(),
        id: delivery().id,
        why: "why".to_owned(),
        bytes: vec![1, 2],
    };
    let overrides = DestinationOverrides {
        pause: Some(Pause { who: "a".to_owned(), reason: "b".to_owned(), since: Timestamp(1), until: Timestamp(2) }),
        breaker: Some(BreakerOverride {
            position: Position::Open,
            who: None,
            reason: "c".to_owned(),
            since: Timestamp(3),
            until: Timestamp(4),
        }),
    };
    let intake_override = IntakeOverride::Closed {
        who: "admin".to_owned(),
        reason: "migration".to_owned(),
        since: Timestamp(1),
        until: Timestamp::NEVER,
    };
    let outage = Outage { from: Timestamp(1), until: Timestamp(2), reason: "disk_low".to_owned(), refused: 3 };
    let clock_reference =
        ClockReference { boot: "id".to_owned(), since_boot: Duration::from_millis(3500), wall: Timestamp(5) };
    let records = [
        ("page", seal_page(&page)),
        ("history", codec::encode(Kind::History, &history)),
        ("settled", codec::encode(Kind::Settled, &settled)),
        ("delivery", codec::encode(Kind::Delivery, &delivery())),
        ("dead_letter", codec::encode(Kind::DeadLetter, &dead_letter)),
        ("totals", codec::encode(Kind::Totals, &totals)),
        ("names", codec::encode(Kind::Names, &vec!["crm".to_owned()])),
        ("hold", codec::encode(Kind::Hold, &hold)),
        ("audit", audit.encode()),
        ("quarantined", codec::encode(Kind::DamagedRecord, &set_aside)),
        ("stance", codec::encode(Kind::DestinationOverrides, &overrides)),
        ("redrive", first_redrive()),
        ("redrive_list", codec::encode(Kind::RedriveList, &vec![Sequence(1), Sequence(5)])),
        ("door", codec::encode(Kind::IntakeOverride, &intake_override)),
        ("gap", codec::encode(Kind::Outage, &outage)),
        ("alive", codec::encode(Kind::Heartbeat, &Timestamp(1))),
        ("paced", codec::encode(Kind::PacingState, &PacingState { released_at: Timestamp(1), sent_at: Timestamp(2) })),
        ("anchor", codec::encode(Kind::ClockReference, &clock_reference)),
        ("told", codec::encode(Kind::AlertState, &"{}".to_owned())),
    ];
    assert_eq!(lines(&records), include_str!("golden/v1.txt"));
}

#[test]
fn version_2_has_its_golden_bytes() {
    let later = Entry { time: Timestamp::ZERO, received_at: Timestamp(1005), ..entry() };
    let pages = vec![PageShape { count: 2, bytes: 300 }];
    let history = HistoryRow { pages, entries: vec![entry(), later] };
    let earlier = DeliveryId { sequence: Sequence(0), destination: DestinationId(1) };
    let settled = SettledRow { settlements: vec![settlement(), Settlement { id: earlier, ..settlement() }] };
    let audit = audit(Some(Timestamp(1)));
    let dead_letter = DeadLetter { delivery: delivery(), reason: Reason::Permanent, dead_at: Timestamp(9) };
    let event = Event { body: b"{}".repeat(50).into(), ..(*delivery().event).clone() };
    let packed = Delivery { event: event.into(), ..delivery() };
    let records = [
        ("history", delta_encoding::encode(&history)),
        ("settled", delta_encoding::encode(&settled)),
        ("audit", audit.encode()),
        ("redrive", redrive().encode()),
        ("delivery", event_record::encode(&packed)),
        ("dead_letter", event_record::encode(&dead_letter)),
    ];
    assert_eq!(lines(&records), include_str!("golden/v2.txt"));
}

fn audit(since: Option<Timestamp>) -> Audit {
    Audit { at: Timestamp(1), who: "admin".to_owned(), what: "dlq purge".to_owned(), count: 2, since }
}

/// Forwarded headers are stored in the field that contained only `traceparent` before; the version of the record stays the
/// same.
#[test]
fn events_with_headers_have_their_golden_bytes() {
    let all = [("traceparent", "00-1"), ("ce-id", "1"), ("ce-source", "/s"), ("tracestate", "a=1")];
    let record = |headers: &[(&'static str, &'static str)]| {
        let mut delivery = delivery();
        let event = Event { headers: ForwardedHeaders::new(headers.iter().copied()), ..Event::clone(&delivery.event) };
        delivery.event = event.into();
        delivery
    };
    let mut page = Vec::new();
    pack(&mut page, &codec::payload(&*record(&all).event));
    let dead_letter = DeadLetter { delivery: record(&all[1..]), reason: Reason::Permanent, dead_at: Timestamp(9) };
    let records = [
        ("page", seal_page(&page)),
        ("delivery", codec::encode(Kind::Delivery, &record(&all[..1]))),
        ("dead_letter", codec::encode(Kind::DeadLetter, &dead_letter)),
    ];
    assert_eq!(lines(&records), include_str!("golden/v1_headers.txt"));
    // as written when `traceparent` was the only forwarded header
    let before = codec::payload(&Some("00-1".to_owned()));
    let read: ForwardedHeaders = codec::from_payload(&before).unwrap();
    assert_eq!(read.iter().collect::<Vec<_>>(), [("traceparent", "00-1")]);
    let back: DeadLetter = codec::decode(Kind::DeadLetter, &records[2].1).unwrap();
    assert_eq!(back.delivery.event.headers.iter().collect::<Vec<_>>(), all[1..]);
}

fn lines(records: &[(&str, Vec<u8>)]) -> String {
    let hex = |b: &[u8]| b.iter().map(|b| format!("{b:02x}")).collect::<String>();
    records.iter().map(|(name, bytes)| format!("{name} {}\n", hex(bytes))).collect()
}

fn unfared() -> Redrive {
    let mut redrive = redrive();
    redrive.fared = RedriveResults::default();
    redrive
}

/// A redrive from before the results of its dead letters were counted.
fn first_redrive() -> Vec<u8> {
    let now = codec::payload(&unfared());
    let since = codec::payload(&RedriveResults::default()).len();
    codec::seal(Kind::Redrive, &now[..now.len() - since])
}

#[test]
fn a_redrive_of_the_first_version_is_read() {
    assert_eq!(Redrive::decode(&first_redrive()).unwrap(), unfared());
    assert_eq!(Redrive::decode(&redrive().encode()).unwrap(), redrive());
    let mut running = unfared();
    running.end = None;
    let payload = codec::payload(&running);
    let first =
        codec::seal(Kind::Redrive, &payload[..payload.len() - codec::payload(&RedriveResults::default()).len()]);
    assert_eq!(Redrive::decode(&first).unwrap(), running);
}

fn redrive() -> Redrive {
    let rate = Rate::new(NonZeroU32::new(50).unwrap(), Duration::from_secs(1));
    let end = RedriveEnd { at: Timestamp(2), why: RedriveEnded::Failing { failed: 5, of: 10 } };
    let mut redrive = Redrive::new("admin".to_owned(), Timestamp(1), Some(rate), true, 20);
    (redrive.taken, redrive.done, redrive.end) = (11, 10, Some(end));
    let by = StoppedBy { event: "e".into(), outcome: "answered".into(), status: Some(503), error: "x".into() };
    redrive.fared = RedriveResults { delivered: 4, dead_again: 5, gone: 1, stopped_by: Some(by) };
    redrive
}

fn delivery() -> Delivery {
    let event = Event {
        received_at: Timestamp(1),
        source: "genesys".to_owned(),
        to: DestinationSet(2),
        interaction: Some("key".to_owned()),
        sender_id: None,
        kind: "type".to_owned(),
        time: Some(Timestamp(3)),
        content_type: "application/json".to_owned(),
        headers: Default::default(),
        conflict: true,
        body_digest: Digest64(4),
        body: bytes::Bytes::from_static(b"{}"),
    };
    let attempt = Attempt {
        number: 1,
        at: Timestamp(5),
        latency_ms: 6,
        outcome: Outcome::Answered(503),
        error: String::new(),
        answer: b"no".to_vec(),
    };
    let id = DeliveryId { sequence: Sequence(7), destination: DestinationId(1) };
    Delivery { id, event: event.into(), attempts: vec![attempt], forgiven: 0, redriven: false }
}
