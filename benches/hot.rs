//! What the pure parts cost for each event, by Criterion, which remembers the last run and says what has changed.
//!
//! `cargo bench --bench hot -- [NAME]` runs those whose name matches, or all.

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use holdline::delivery::{Place, Ticket};
use holdline::event::{DestinationId, DestinationSet, Digest64, Event, EventId, Sequence};
use holdline::extract::{Found, Limits, Profile, Request};
use holdline::rules::breaker::{self, Breaker};
use holdline::rules::rate::{Gcra, Rate};
use holdline::rules::verdict::Verdict;
use holdline::rules::verdict::{Call, Health};
use holdline::scheduler::{Policy, Scheduler, Step};
use holdline::store::Arrival;
use holdline::time::Timestamp;
use http::HeaderMap;
use std::hint::black_box;
use std::num::NonZeroU32;
use std::time::Duration;

const NOW: Timestamp = Timestamp(1_773_957_888_128);

/// Steps with the number of each; no two are alike.
fn measure(c: &mut Criterion, name: &str, mut step: impl FnMut(u64)) {
    let mut n = 0;
    c.bench_function(name, |b| {
        b.iter(|| {
            n += 1;
            step(n);
        });
    });
}

/// An event as EventBridge sends it, 1.1 KiB.
fn body() -> Bytes {
    let id = "c4bbb228-ecc9-5a33-8849-e65b2108f2aa";
    let ids: String = (0..12).map(|n| format!(",\"field{n}\":\"{id}\"")).collect();
    Bytes::from(format!(
        "{{\"version\":\"0\",\"id\":\"{id}\",\"detail-type\":\"v2.detail.events.conversation.{{id}}.user.end\",\"source\":\
         \"aws.partner/genesys.com/cloud/{id}/genesys_acme\",\"time\":\"2025-12-12T15:02:01Z\",\"resources\":[],\"detail\":\
         {{\"topicName\":\"v2.detail.events.conversation.{id}.user.end\",\"version\":\"2\",\"eventBody\":{{\"eventTime\":\
         1765551721800,\"conversationId\":\"{id}\"{ids}}},\"timestamp\":\"2025-12-12T15:02:01.920Z\"}}}}"
    ))
}

fn reading(c: &mut Criterion) {
    let (body, headers) = (body(), HeaderMap::new());
    let limits = Limits { depth_max: 64, events_max: 1000 };
    for preset in ["auto", "genesys-eventbridge"] {
        let profile = Profile::preset(preset).expect("there is such a preset");
        measure(c, &format!("profile {preset}: read an event"), |_| {
            let request = Request { headers: &headers, query: None, body: &body };
            black_box(profile.read(&request, &limits).expect("the event is JSON"));
        });
    }
    let profile = Profile::preset("auto").expect("there is such a preset");
    let request = Request { headers: &headers, query: None, body: &body };
    let Ok(Found::One(fields)) = profile.read(&request, &limits) else { panic!("the body is one event") };
    measure(c, "arrival: digests, record", |n| {
        let fields = fields.clone();
        black_box(Arrival::new(Event {
            received_at: Timestamp(NOW.0 + n),
            source: "default".to_owned(),
            to: DestinationSet(1),
            interaction: fields.interaction,
            sender_id: fields.sender_id,
            kind: fields.event_type,
            time: fields.time,
            content_type: "application/json".to_owned(),
            headers: Default::default(),
            conflict: false,
            body_digest: Digest64::of(&[&fields.body]),
            body: fields.body,
        }));
    });
    measure(c, "event id: as text", |n| {
        black_box(EventId::new(NOW, Sequence(n), Digest64(n)).to_string());
    });
}

fn rules(c: &mut Criterion) {
    let count = NonZeroU32::new(1_000_000).expect("it is not zero");
    let mut gcra = Gcra::new(Rate::new(count, Duration::from_secs(1)), 1000);
    measure(c, "gcra: take one", |n| {
        let _ = black_box(gcra.try_take(Timestamp(NOW.0 + n)));
    });
    let mut breaker = Breaker::new(breaker::Limits::default());
    measure(c, "breaker: a call begins and ends well", |n| {
        let now = Timestamp(NOW.0 + n);
        let _ = black_box(breaker.check(now));
        let epoch = breaker.began();
        let call =
            Call { began: now, latency: Duration::from_millis(3), health: Health::Delivered, refuses_all: false };
        black_box(breaker.ended(epoch, &call, false, now));
    });
}

/// A delivery from acceptance to its end, with so many others waiting.
fn scheduling(c: &mut Criterion, waiting: u64) {
    let d = DestinationId(0);
    let mut scheduler = Scheduler::new([(d, Policy::default())], Sequence(1), Sequence(1), NOW);
    let ticket = |n: u64| Ticket {
        sequence: Sequence(n),
        order_key: Digest64(n % 10_000 + 1),
        received_at: NOW,
        time: Some(NOW),
        to: DestinationSet(1),
        place: Place::Page,
    };
    for n in 1..=waiting {
        scheduler.accepted(&[ticket(n)], Sequence(n + 1));
    }
    measure(c, &format!("scheduler: accept, start, land; {waiting} wait"), |n| {
        let (next, now) = (waiting + 1 + n, Timestamp(NOW.0 + n));
        scheduler.accepted(&[ticket(next)], Sequence(next + 1));
        while let Some((d, from)) = scheduler.next_load() {
            let more: Vec<Ticket> = (from.0..(from.0 + 1000).min(next + 1)).map(ticket).collect();
            let end = more.last().map_or(from, |t| t.sequence.next());
            scheduler.queue_mut(d).expect("it exists").loaded(&more, end);
        }
        if let Step::Start(start) = scheduler.poll(now) {
            let call =
                Call { began: now, latency: Duration::from_millis(3), health: Health::Delivered, refuses_all: false };
            let queue = scheduler.queue_mut(d).expect("it exists");
            black_box(queue.ended(&start, Verdict::Delivered, Some(&call), now));
        }
    });
}

fn all(c: &mut Criterion) {
    reading(c);
    rules(c);
    scheduling(c, 0);
    scheduling(c, 5_000);
}

criterion_group!(hot, all);
criterion_main!(hot);
