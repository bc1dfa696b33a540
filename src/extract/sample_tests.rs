//! What each preset, and `auto`, reads in the sample bodies. The expected values were worked out from the bodies by hand
//! and by another program, not by the code under test.

use super::*;
use std::path::Path;

struct Expected {
    sample: &'static str,
    preset: &'static str,
    key: Option<&'static str>,
    id: Option<&'static str>,
    time: Option<u64>,
    event_type: &'static str,
}

#[rustfmt::skip]
fn expected() -> Vec<Expected> {
    vec![
        Expected {
            sample: "01_eb_customer_start",
            preset: "genesys-eventbridge",
            key: Some("2f7bf00a-0fc2-4d6a-9b56-92238191433e"),
            id: Some("adbcfa5b-0116-4baa-b66b-a3f5902e95bf"),
            time: Some(1_649_237_444_949),
            event_type: "v2.detail.events.conversation.{id}.customer.start",
        },
        Expected {
            sample: "02_eb_customer_end",
            preset: "genesys-eventbridge",
            key: Some("2f7bf00a-0fc2-4d6a-9b56-92238191433e"),
            id: Some("58fb5dac-f077-4eec-a25f-c638dbdd4368"),
            time: Some(1_649_237_504_949),
            event_type: "v2.detail.events.conversation.{id}.customer.end",
        },
        Expected {
            sample: "03_eb_customer_end_same_id_other_body",
            preset: "genesys-eventbridge",
            key: Some("2f7bf00a-0fc2-4d6a-9b56-92238191433e"),
            id: Some("58fb5dac-f077-4eec-a25f-c638dbdd4368"),
            time: Some(1_649_237_504_949),
            event_type: "v2.detail.events.conversation.{id}.customer.end",
        },
        Expected {
            sample: "04_eb_flow_outcome",
            preset: "genesys-eventbridge",
            key: Some("test-conversation-id"),
            id: Some("test-eventbridge-id"),
            time: Some(1_765_551_750_107),
            event_type: "v2.detail.events.conversation.{id}.flow.outcome",
        },
        Expected {
            sample: "06_eb_transcription_ongoing",
            preset: "genesys-eventbridge",
            key: Some("df7e3d8f-93ec-5d4d-a4bf-653c4941a463"),
            id: Some("d95e97ce-04c3-5a7f-b209-187f51611d37"),
            time: Some(1_773_957_888_128),
            event_type: "v2.conversations.{id}.transcription",
        },
        Expected {
            sample: "08_eb_audit_user_presence",
            preset: "genesys-eventbridge",
            key: Some("278522be-1683-4877-8257-4164a177be89"),
            id: Some("4cbedb0f-4dfd-4c8e-9e57-0acded092527"),
            time: Some(1_624_633_912_000),
            event_type: "v2.audits.entitytype.{id}.entityid.{id}",
        },
        Expected {
            sample: "10_ws_users_conversations_callback",
            preset: "genesys-notification",
            key: Some("b04fa38d-0068-531c-b612-0145487c9224"),
            id: Some("v2.users.438442b0-f5b6-50ef-aac3-4c45f2a65ddd.conversations|2074b130-f0a0-4722-9063-cdbac74c0aee|19c44bbf98c75e63b98c15be25f2c67f095d2a7c5162e21bb25957ae33b48908"),
            time: None,
            event_type: "v2.users.{id}.conversations",
        },
        Expected {
            sample: "11_ws_user_activity",
            preset: "genesys-notification",
            key: Some("e40f28ea-fa86-493f-a5b8-d559c8533c96"),
            id: Some("v2.users.e40f28ea-fa86-493f-a5b8-d559c8533c96.activity|9e8067c7-8b35-4e54-add9-db24e7d6f086|a8e031d255b081201e20fd1ee52cc747f409bc18b6e74457d436c61f38211452"),
            time: None,
            event_type: "v2.users.{id}.activity",
        },
        Expected {
            sample: "14_om_outbound_text_2021",
            preset: "genesys-open-messaging",
            key: Some("a2171742-7359-41cf-aa68-ad5049250806|5608add1-7b77-460b-a7f0-97a8d8f2b6db"),
            id: Some("36e4d8d92b071f15116d01d111bb8802|Text||2021-11-25T09:42:16.302Z|"),
            time: Some(1_637_833_336_302),
            event_type: "Text",
        },
        Expected {
            sample: "15_om_outbound_text_2025",
            preset: "genesys-open-messaging",
            key: Some("13401d13-3d64-5ec5-8ea0-88dc27980c26|did:plc:samplecustomer000000000000"),
            id: Some("d7d58935af65a45e5234ac77de017a0a|Text||2025-06-10T21:03:05.427Z|"),
            time: Some(1_749_589_385_427),
            event_type: "Text",
        },
        Expected {
            sample: "17_om_outbound_receipt_schema",
            preset: "genesys-open-messaging",
            key: Some("13401d13-3d64-5ec5-8ea0-88dc27980c26|did:plc:samplecustomer000000000000"),
            id: Some("d7d58935af65a45e5234ac77de017a0a|Receipt|Published|2025-06-10T21:03:06.101Z|"),
            time: Some(1_749_589_386_101),
            event_type: "Receipt",
        },
        Expected {
            sample: "18_trigger_customer_end_body",
            preset: "genesys-trigger",
            key: Some("conversationId"),
            id: Some("|conversationId|sessionId|participantId|10000"),
            time: Some(10_000_000),
            event_type: "",
        },
        Expected {
            sample: "19_pec_interactions_webhook",
            preset: "genesys-engage-interactions",
            key: Some("8e09e19f-b8ba-4db0-b6e7-dfc8a7776176"),
            id: Some("8e09e19f-b8ba-4db0-b6e7-dfc8a7776176|FINISHED|239ae3bccf1e8beffaa383561705200bab5baeb2eebda626625dc16b62518626"),
            time: None,
            event_type: "FINISHED",
        },
        Expected {
            sample: "20_eventgrid_wrapped_genesys",
            preset: "azure-event-grid",
            key: Some("2f7bf00a-0fc2-4d6a-9b56-92238191433e"),
            id: Some("9573abb9-5f52-51c7-bc2b-edc328960b00"),
            time: Some(1_649_237_446_123),
            event_type: "v2.detail.events.conversation.{id}.customer.start",
        },
        Expected {
            sample: "21_eb_acd_start_schema",
            preset: "genesys-eventbridge",
            key: Some("625199b5-3140-5e40-8c00-88b99438b45b"),
            id: Some("2130fec9-35f1-5610-8830-d5f665c6a505"),
            time: Some(1_765_551_608_000),
            event_type: "v2.detail.events.conversation.{id}.acd.start",
        },
        Expected {
            sample: "23_eb_user_end_schema",
            preset: "genesys-eventbridge",
            key: Some("625199b5-3140-5e40-8c00-88b99438b45b"),
            id: Some("2b625a2b-767e-5512-8da4-e564196f40ac"),
            time: Some(1_765_551_721_800),
            event_type: "v2.detail.events.conversation.{id}.user.end",
        },
        Expected {
            sample: "25_ws_queue_calls_schema",
            preset: "genesys-notification",
            key: Some("625199b5-3140-5e40-8c00-88b99438b45b"),
            id: Some("v2.routing.queues.39f17910-eadd-5caa-b4dd-f395ddfac046.conversations.calls|adf3289c-6a57-5ad8-baff-7bdfd49d7a67|7553f5819d40617351e3c10f0507ec927a7dd6e32bdb8e15aa61406745772062"),
            time: None,
            event_type: "v2.routing.queues.{id}.conversations.calls",
        },
        Expected {
            sample: "26_seed_article",
            preset: "interaction",
            key: Some("12345-abcde"),
            id: Some("interaction.completed|1715634000000|12345-abcde"),
            time: Some(1_715_634_000_000),
            event_type: "interaction.completed",
        },
        Expected {
            sample: "27_om_inbound_text",
            preset: "genesys-open-messaging",
            key: Some("|13401d13-3d64-5ec5-8ea0-88dc27980c26"),
            id: Some("|Text||2025-03-15T14:30:00.000Z|"),
            time: Some(1_742_049_000_000),
            event_type: "Text",
        },
        Expected {
            sample: "29_twilio_eventstreams_array",
            preset: "cloudevents",
            key: Some("SM12345678900987654321"),
            id: Some("/2010-04-01/Accounts/AC12345678900987654321/Messages/SM12345678900987654321.json|EZ1234567890987654321"),
            time: Some(1_659_273_300_707),
            event_type: "com.twilio.messaging.message.sent",
        },
    ]
}

fn sample(name: &str) -> Bytes {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples").join(format!("{name}.json"));
    Bytes::from(std::fs::read(path).unwrap())
}

fn events(preset: &str, body: &Bytes) -> Vec<Fields> {
    let request = Request { headers: &http::HeaderMap::new(), query: None, body };
    let limits = Limits { depth_max: 64, events_max: 10 };
    match Profile::preset(preset).unwrap().read(&request, &limits).unwrap() {
        Found::One(event) => vec![event],
        Found::Batch(events) => events,
        Found::Heartbeat { event_type } => panic!("{preset} dropped {event_type}"),
    }
}

/// The bytes of the only element of a batch, found by its text.
fn only_element(body: &Bytes) -> Bytes {
    let text = std::str::from_utf8(body).unwrap();
    let start = text.find('[').unwrap() + 1;
    let start = start + text[start..].find('{').unwrap();
    let end = text.rfind(']').unwrap();
    let end = end - text[..end].bytes().rev().position(|b| b == b'}').unwrap();
    body.slice(start..end)
}

#[test]
fn presets_and_auto_read_the_samples() {
    for e in expected() {
        let body = sample(e.sample);
        let batch = ["azure-event-grid", "cloudevents", "genesys-engage-interactions"].contains(&e.preset);
        let fields = Fields {
            interaction: e.key.map(str::to_owned),
            sender_id: e.id.map(str::to_owned),
            time: e.time.map(Timestamp),
            event_type: e.event_type.to_owned(),
            body: if batch { only_element(&body) } else { body.clone() },
        };
        for preset in [e.preset, "auto"] {
            assert_eq!(events(preset, &body), std::slice::from_ref(&fields), "{} by {preset}", e.sample);
        }
    }
}

#[test]
fn every_sample_has_its_row() {
    let rows: std::collections::BTreeSet<_> = expected().iter().map(|e| format!("{}.json", e.sample)).collect();
    for entry in std::fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/samples")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        if !name.ends_with(".json") {
            continue;
        }
        let known = rows.contains(&name) || name == "12_ws_heartbeat.json";
        assert!(known, "{name} has no expectation");
    }
}

#[test]
fn a_heartbeat_is_dropped() {
    let body = sample("12_ws_heartbeat");
    for preset in ["auto", "genesys-notification"] {
        let request = Request { headers: &http::HeaderMap::new(), query: None, body: &body };
        let found = Profile::preset(preset).unwrap().read(&request, &Limits { depth_max: 64, events_max: 10 });
        assert_eq!(found, Ok(Found::Heartbeat { event_type: "channel.metadata".to_owned() }));
    }
    assert_eq!(events("custom", &body).len(), 1);
}

#[test]
fn ids_differ_between_events_and_match_for_redeliveries() {
    let id = |name: &str| events("auto", &sample(name)).remove(0).sender_id;
    assert_eq!(id("02_eb_customer_end"), id("03_eb_customer_end_same_id_other_body"));
    let names =
        ["14_om_outbound_text_2021", "15_om_outbound_text_2025", "17_om_outbound_receipt_schema", "27_om_inbound_text"];
    let ids: std::collections::BTreeSet<_> = names.iter().map(|name| id(name)).collect();
    assert_eq!(ids.len(), names.len());
}

/// A truncated sample is not JSON; the error gives the position and quotes nothing.
#[test]
fn a_truncated_sample_is_refused_at_every_byte() {
    for name in ["02_eb_customer_end", "29_twilio_eventstreams_array"] {
        let whole = sample(name);
        for end in 1..whole.trim_ascii_end().len() {
            let body = whole.slice(..end);
            let request = Request { headers: &http::HeaderMap::new(), query: None, body: &body };
            let found = Profile::preset("auto").unwrap().read(&request, &Limits { depth_max: 64, events_max: 10 });
            let Err(Unreadable::NotJson { message }) = found else { panic!("{name} cut at {end}: {found:?}") };
            assert!(message.contains(" at line "), "{message}");
        }
    }
}

/// Any mutation of a body causes no panic, and gives the same verdict as the JSON parser.
#[test]
fn mutated_samples_never_panic() {
    let mut random = fastrand::Rng::with_seed(7);
    let bodies: Vec<_> = expected().iter().map(|e| sample(e.sample)).collect();
    let profiles: Vec<_> = ["auto", "custom", "genesys-notification"].map(|n| Profile::preset(n).unwrap()).into();
    let mut valid_bodies = 0;
    for round in 0..4000 {
        let mut bytes = bodies[random.usize(..bodies.len())].to_vec();
        for _ in 0..random.usize(1..4) {
            let (at, other) = (random.usize(..bytes.len()), random.usize(..bytes.len()));
            match random.u8(..4) {
                0 => bytes[at] = random.u8(..),
                1 => bytes[at] = *random.choice(b"[]{}\",:0-eE.\\ntu \n").unwrap(),
                2 => drop(bytes.remove(at)),
                _ => bytes.swap(at, other),
            }
        }
        let body = Bytes::from(bytes);
        let request = Request { headers: &http::HeaderMap::new(), query: None, body: &body };
        // A body with invalid UTF-8 within a string passes the parser if the parser ignores that string.
        let valid = std::str::from_utf8(&body).is_ok_and(|s| serde_json::from_str::<serde::de::IgnoredAny>(s).is_ok());
        valid_bodies += usize::from(valid);
        for profile in &profiles {
            match profile.read(&request, &Limits { depth_max: 64, events_max: 10 }) {
                Err(Unreadable::NotJson { .. } | Unreadable::TooDeep { .. }) => assert!(!valid, "round {round}"),
                _ => assert!(valid, "round {round}"),
            }
        }
    }
    assert!((400..3600).contains(&valid_bodies), "{valid_bodies} of 4000 show one side only");
}
