//! How profiles read requests: fields, overrides, batches, and refused bodies.

use super::*;
use http::HeaderMap;

const LIMITS: Limits = Limits { depth_max: 64, events_max: 3 };

fn read(profile: &Profile, body: &[u8]) -> Result<Found, Unreadable> {
    read_with(profile, &[], None, body)
}

fn read_with(
    profile: &Profile,
    headers: &[(&'static str, &'static str)],
    query: Option<&str>,
    body: &[u8],
) -> Result<Found, Unreadable> {
    let headers: HeaderMap = headers.iter().map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap())).collect();
    profile.read(&Request { headers: &headers, query, body: &Bytes::copy_from_slice(body) }, &LIMITS)
}

fn events(found: Result<Found, Unreadable>) -> Vec<Fields> {
    match found.unwrap() {
        Found::One(event) => vec![event],
        Found::Batch(events) => events,
        Found::Heartbeat { event_type } => panic!("dropped {event_type}"),
    }
}

fn only(found: Result<Found, Unreadable>) -> Fields {
    let mut events = events(found);
    assert_eq!(events.len(), 1);
    events.remove(0)
}

fn preset(name: &str) -> Profile {
    Profile::preset(name).unwrap()
}

fn alternatives(lists: &[&[&str]]) -> Vec<Composite> {
    lists.iter().map(|parts| Composite::parse(parts).unwrap()).collect()
}

/// The key that `custom` finds with one alternative of one part.
fn key_at(pointer: &str, body: &str) -> Option<String> {
    only(read(&preset("custom").with(Field::Key, alternatives(&[&[pointer]])), body.as_bytes())).interaction
}

#[test]
fn every_preset_is_there_and_nothing_else() {
    for name in Profile::preset_names() {
        assert!(Profile::preset(name).is_some(), "{name}");
    }
    let table = presets::shapes();
    assert!(table.iter().all(|shape| Profile::preset_names().contains(&shape.name)));
    assert_eq!(table.len() + 2, Profile::preset_names().len());
    assert!(Profile::preset("genesys").is_none() && Profile::preset("").is_none());
}

#[test]
fn scalars_are_extracted_as_written() {
    let cases = [
        ("/id", r#"{"id":"a"}"#, Some("a")),
        ("/id", r#"{"id":18446744073709551616000000000001}"#, Some("18446744073709551616000000000001")),
        ("/id", r#"{"id":-12.50e+3}"#, Some("-12.50e+3")),
        ("/id", r#"{"id":1e999}"#, Some("1e999")),
        ("/id", r#"{"id": 42 }"#, Some("42")),
        ("/id", r#"{"id":true}"#, Some("true")),
        ("/id", r#"{"id":false}"#, Some("false")),
        ("/id", r#"{"id":null}"#, None),
        ("/id", r#"{"id":""}"#, None),
        ("/id", r#"{"id":{}}"#, None),
        ("/id", r#"{"id":["a"]}"#, None),
        ("/id", r#"{"other":"a"}"#, None),
        ("/id", r#"{"id":"a\"\\\/\b\n"}"#, Some("a\"\\/\u{8}\n")),
        ("/id", r#"{"id":"\"\""}"#, Some("\"\"")),
        ("/id", r#"{"id":"\u00fc\ud83d\ude00 ü"}"#, Some("ü😀 ü")),
        ("/id", r#"{"id":"\ud83d"}"#, Some(r#""\ud83d""#)),
        ("/id", r#"{"\u0069d":"a"}"#, Some("a")),
        ("/id", r#"{"\ud83d":1,"id":"a"}"#, Some("a")),
        ("/ü\"", r#"{"ü\"":"a"}"#, Some("a")),
        ("/a~1b/m~0n", r#"{"a/b":{"m~n":"a"}}"#, Some("a")),
        ("/", r#"{"":"a"}"#, Some("a")),
        ("", r#""a""#, Some("a")),
        ("", " 7 ", Some("7")),
        ("", "1e999", Some("1e999")),
        ("", "null", None),
        ("/a", "7", None),
        ("/a", r#""a""#, None),
        ("/a/b", r#"{"a":1e999}"#, None),
        ("/a/1", r#"{"a":["x","y","z"]}"#, Some("y")),
        ("/a/3", r#"{"a":["x","y","z"]}"#, None),
        ("/a/01", r#"{"a":["x","y","z"]}"#, None),
        ("/a/+1", r#"{"a":["x","y","z"]}"#, None),
        ("/a/-", r#"{"a":["x","y","z"]}"#, None),
        ("/a/0", r#"{"a":{"0":"x"}}"#, Some("x")),
        ("/1/b", r#"[{"b":"x"},{"b":"y"}]"#, Some("y")),
        ("/a/10/b", r#"{"a":[0,1,2,3,4,5,6,7,8,9,{"b":"x"}]}"#, Some("x")),
    ];
    for (pointer, body, expected) in cases {
        assert_eq!(key_at(pointer, body).as_deref(), expected, "{pointer} in {body}");
    }
}

#[test]
fn the_last_of_duplicate_members_counts() {
    assert_eq!(key_at("/id", r#"{"id":"a","id":"b"}"#).as_deref(), Some("b"));
    assert_eq!(key_at("/id", r#"{"id":"a","\u0069d":null}"#), None);
    assert_eq!(key_at("/a/id", r#"{"a":{"id":"a"},"a":{"x":1}}"#), None);
    assert_eq!(key_at("/a/id", r#"{"a":{"id":"a"},"a":7}"#), None);
}

#[test]
fn a_pointer_and_one_below_it_are_both_found() {
    let profile = preset("custom").with(Field::Key, alternatives(&[&["/data"], &["/data/id"]]));
    assert_eq!(only(read(&profile, br#"{"data":"x"}"#)).interaction.as_deref(), Some("x"));
    assert_eq!(only(read(&profile, br#"{"data":{"id":"y"}}"#)).interaction.as_deref(), Some("y"));
}

#[test]
fn headers_queries_and_hashes_are_parts() {
    let id = |parts: &[&[&str]], headers: &[(&'static str, &'static str)], query: Option<&str>| {
        let profile = preset("custom").with(Field::Id, alternatives(parts));
        only(read_with(&profile, headers, query, b"{}")).sender_id
    };
    assert_eq!(id(&[&["header:X-Id"]], &[("x-id", "7")], None).as_deref(), Some("7"));
    assert_eq!(id(&[&["header:x-id"]], &[("x-id", "")], None), None);
    assert_eq!(
        id(&[&["header:x-id"], &["query:id"]], &[], Some("a=1&id=&id=x%2By+z%C3%BC")).as_deref(),
        Some("x+y zü")
    );
    assert_eq!(id(&[&["query:id"]], &[], Some("ID=1&identity=2")), None);
    let empty_object = "44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
    assert_eq!(id(&[&["body:sha256"]], &[], None).as_deref(), Some(empty_object));
    assert_eq!(id(&[&["/a", "header:x-id", "query:id"]], &[("x-id", "7")], None).as_deref(), Some("|7|"));
    assert_eq!(id(&[&["/a", "header:x-id"]], &[], None), None);
    assert_eq!(id(&[&[]], &[], None), None);
}

#[test]
fn overrides_replace_a_field_under_every_profile() {
    let body = br#"{"eventType":"t","id":"1","data":{"id":"k"},"mine":{"key":"K","at":1700000000,"kind":"T"}}"#;
    for name in ["auto", "interaction", "custom"] {
        let profile = preset(name)
            .with(Field::Key, alternatives(&[&["/none"], &["/mine/key"]]))
            .with(Field::Time, alternatives(&[&["/mine/at"]]))
            .with(Field::EventType, alternatives(&[&["/mine/kind"]]));
        let fields = only(read(&profile, body));
        assert_eq!(fields.interaction.as_deref(), Some("K"), "{name}");
        assert_eq!(fields.time, Some(Timestamp(1_700_000_000_000)), "{name}");
        assert_eq!(fields.event_type, "T", "{name}");
        assert_eq!(fields.sender_id.as_deref(), (name != "custom").then_some("1"), "{name}");
    }
    let none = preset("interaction").with(Field::Key, Vec::new());
    assert_eq!(only(read(&none, body)).interaction, None);
}

#[test]
fn a_body_that_no_profile_detects_is_an_event() {
    for body in [
        "7",
        "[]",
        "[1,2]",
        "{}",
        "\"x\"",
        "null",
        r#"[{"id":"a"}]"#,
        r#"{"data":{"entities":[]}}"#,
        r#"{"data":1e999}"#,
    ] {
        let fields = only(read(&preset("auto"), body.as_bytes()));
        assert_eq!(
            (fields.interaction, fields.sender_id, fields.time, fields.event_type.as_str()),
            (None, None, None, "")
        );
        assert_eq!(fields.body, body.as_bytes());
    }
}

#[test]
fn headers_detect_events_too() {
    let cloud = [("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t"), ("ce-time", "2022-04-06T09:30:44.949Z")];
    // In binary mode the body is data: an array in it is one event.
    for body in ["[1,2]", "{}", r#"{"conversationId":"c"}"#] {
        let fields = only(read_with(&preset("auto"), &cloud, None, body.as_bytes()));
        assert_eq!(fields.sender_id.as_deref(), Some("/s|1"));
        assert_eq!((fields.event_type.as_str(), fields.time), ("t", Some(Timestamp(1_649_237_444_949))));
        assert_eq!(fields.body, body.as_bytes());
    }
    let trigger = [("x-event-type", "v2.x"), ("x-event-id", "e")];
    let fields =
        only(read_with(&preset("auto"), &trigger, None, br#"{"conversationId":"c","eventTime":1649237444949}"#));
    assert_eq!((fields.event_type.as_str(), fields.sender_id.as_deref()), ("v2.x", Some("e")));
    let grid = [("aeg-event-type", "Notification")];
    assert_eq!(events(read_with(&preset("auto"), &grid, None, br#"[{"id":"a"},{"id":"b"}]"#)).len(), 2);
}

#[test]
fn a_byte_order_mark_is_skipped_and_kept() {
    for name in ["auto", "interaction"] {
        let body = b"\xEF\xBB\xBF{\"eventId\":\"1\",\"data\":{\"id\":\"k\"}}";
        let fields = only(read(&preset(name), body));
        assert_eq!((fields.interaction.as_deref(), fields.sender_id.as_deref()), (Some("k"), Some("1")));
        assert_eq!(fields.body, &body[..]);
    }
    let batch = events(read(&preset("azure-event-grid"), b"\xEF\xBB\xBF[{\"id\":1},{}]"));
    assert_eq!(batch.iter().map(|e| &e.body[..]).collect::<Vec<_>>(), [&b"{\"id\":1}"[..], b"{}"]);
    assert_eq!(read(&preset("auto"), b"\xEF\xBB\xBF"), Err(Unreadable::Empty));
}

/// One CloudEvent in each mode: its headers and body in binary mode, and the body in structured mode.
type InBothModes<'a> = (&'a [(&'static str, &'static str)], &'a str, &'a str);

#[test]
fn a_cloud_event_has_the_same_fields_in_both_modes() {
    let cases: [InBothModes<'_>; 6] = [
        (
            &[("ce-subject", "K"), ("ce-time", "2022-04-06T09:30:44.949Z")],
            r#"{"subject":"other"}"#,
            r#""subject":"K","time":"2022-04-06T09:30:44.949Z","data":{"subject":"other"}"#,
        ),
        (&[("ce-subject", "K"), ("ce-partitionkey", "P")], "{}", r#""subject":"K","partitionkey":"P","data":{}"#),
        (&[], r#"{"messageSid":"M"}"#, r#""data":{"messageSid":"M"}"#),
        (&[], r#"{"conversationId":"C","subject":"s","source":"x","id":"y"}"#, r#""data":{"conversationId":"C"}"#),
        (&[("ce-subject", "Euro%20%E2%82%AC%20%F0%9F%98%80")], "[1]", r#""subject":"Euro € 😀""#),
        (&[("ce-subject", "\"100%25 \\\"sure\\\"\"")], "[1]", r#""subject":"100% \"sure\"""#),
    ];
    let keys = [Some("K"), Some("P"), Some("M"), Some("C"), Some("Euro € 😀"), Some("100% \"sure\"")];
    for ((headers, data, members), key) in cases.into_iter().zip(keys) {
        let attributes = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")];
        let headers = [headers, &attributes[..]].concat();
        let whole = format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t",{members}}}"#);
        for name in ["auto", "cloudevents"] {
            let of_head = only(read_with(&preset(name), &headers, None, data.as_bytes()));
            let of_body = only(read(&preset(name), whole.as_bytes()));
            assert_eq!(of_head.interaction.as_deref(), key, "{headers:?}");
            assert_eq!(Fields { body: Bytes::new(), ..of_head }, Fields { body: Bytes::new(), ..of_body }, "{whole}");
        }
    }
}

#[test]
fn a_cloud_event_without_a_subject_belongs_to_no_interaction() {
    let whole = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","data":{"x":1}}"#;
    let head = [("ce-specversion", "1.0"), ("ce-id", "1"), ("ce-source", "/s"), ("ce-type", "t")];
    for name in ["auto", "cloudevents"] {
        let batch = format!("[{whole},{whole}]");
        assert!(events(read(&preset(name), batch.as_bytes())).iter().all(|e| e.interaction.is_none()));
        assert_eq!(only(read(&preset(name), whole.as_bytes())).interaction, None);
        assert_eq!(only(read_with(&preset(name), &head, None, b"{\"x\":1}")).interaction, None);
    }
}

#[test]
fn the_headers_of_a_whole_cloud_event_say_nothing_of_it() {
    let stray = [("content-type", "application/cloudevents+json; charset=utf-8"), ("ce-id", "9"), ("ce-subject", "X")];
    let whole = r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","subject":"K"}"#;
    let fields = only(read_with(&preset("auto"), &stray, None, whole.as_bytes()));
    assert_eq!((fields.interaction.as_deref(), fields.sender_id.as_deref()), (Some("K"), Some("/s|1")));
    let many = [("content-type", "Application/CloudEvents-Batch+json"), ("ce-id", "9"), ("ce-subject", "X")];
    let batch = events(read_with(&preset("cloudevents"), &many, None, format!("[{whole},{{}}]").as_bytes()));
    let keys: Vec<_> = batch.iter().map(|e| (e.interaction.as_deref(), e.sender_id.as_deref())).collect();
    assert_eq!(keys, [(Some("K"), Some("/s|1")), (None, None)]);
}

#[test]
fn an_sns_notification_is_unwrapped() {
    let inside = r#"{"source":"aws.partner/genesys.com/cloud/1/x","id":"E","detail-type":"v2.x","time":"2022-04-06T09:30:44.949Z",
        "detail":{"eventBody":{"conversationId":"C"}}}"#;
    let around = |message: &str| {
        let message = serde_json::to_string(message).unwrap();
        format!(
            r#"{{"Type":"Notification","MessageId":"M","TopicArn":"arn:aws:sns:eu-west-1:1:t","Message":{message},
            "Timestamp":"2022-04-06T09:31:00.000Z","UnsubscribeURL":"https://sns.eu-west-1.amazonaws.com/"}}"#
        )
    };
    let (inner, outer) = (Some(Timestamp(1_649_237_444_949)), Some(Timestamp(1_649_237_460_000)));
    type Case<'a> = (String, Option<&'a str>, &'a str, Option<Timestamp>, &'a str);
    let cases: [Case<'_>; 6] = [
        (around(inside), Some("C"), "E", inner, "v2.x"),
        (around(r#"{"conversationId":"T"}"#), Some("T"), "|T|||", outer, "Notification"),
        (around(r#"{"specversion":"1.0","id":"1","source":"/s","type":"t"}"#), None, "/s|1", outer, "t"),
        (around("plain words"), None, "M", outer, "Notification"),
        (around("[1,2]"), None, "M", outer, "Notification"),
        (around(&"[".repeat(100)), None, "M", outer, "Notification"),
    ];
    for (body, key, id, time, event_type) in &cases {
        for name in ["auto", "sns"] {
            let fields = only(read(&preset(name), body.as_bytes()));
            let found =
                (fields.interaction.as_deref(), fields.sender_id.as_deref(), fields.time, fields.event_type.as_str());
            assert_eq!(found, (*key, Some(*id), *time, *event_type), "{name}: {body}");
            assert_eq!(fields.body, body.as_bytes(), "it goes on as it came");
        }
    }
    let raw = only(read(&preset("sns"), inside.as_bytes()));
    assert_eq!((raw.interaction.as_deref(), raw.sender_id.as_deref()), (Some("C"), Some("E")), "raw delivery");
    let own = preset("sns").with(Field::Key, alternatives(&[&["/detail/mine"], &["/TopicArn"]]));
    let with_mine = around(r#"{"detail":{"mine":"7"}}"#);
    assert_eq!(only(read(&own, with_mine.as_bytes())).interaction.as_deref(), Some("7"), "pointers reach into it");
    let around_it = only(read(&own, around("{}").as_bytes())).interaction;
    assert_eq!(around_it.as_deref(), Some("arn:aws:sns:eu-west-1:1:t"), "and to what is around it");
    let beat = around(r#"{"topicName":"channel.metadata"}"#);
    assert!(matches!(read(&preset("auto"), beat.as_bytes()), Ok(Found::Heartbeat { .. })));
}

#[test]
fn any_text_that_is_json_can_be_unwrapped() {
    let profile = preset("custom")
        .with(Field::Key, alternatives(&[&["/call"]]))
        .with(Field::Id, alternatives(&[&["/ref"]]))
        .with_unwrap(Some(Pointer::parse("/payload/text").unwrap()));
    let one = r#"{"ref":"r","payload":{"text":"{\"call\":\"c\"}"}}"#;
    let fields = only(read(&profile, one.as_bytes()));
    assert_eq!((fields.interaction.as_deref(), fields.sender_id.as_deref()), (Some("c"), Some("r")));
    let each = profile.with_split(Some(Pointer::default()));
    let found = events(read(&each, format!("[{one},{{\"call\":\"bare\"}}]").as_bytes()));
    assert_eq!(found.iter().map(|e| e.interaction.as_deref()).collect::<Vec<_>>(), [Some("c"), Some("bare")]);
}

#[test]
fn long_fields_become_their_beginning_and_a_hash() {
    let long = "x".repeat(30_000);
    let body =
        format!(r#"{{"eventType":"{long}t","eventId":"{long}i","timestamp":"{long}","data":{{"id":"{long}k"}}}}"#);
    let fields = only(read(&preset("interaction"), body.as_bytes()));
    let texts = [fields.interaction.unwrap(), fields.sender_id.unwrap(), fields.event_type];
    for (text, end) in texts.iter().zip(["k", "i", "t"]) {
        assert_eq!((text.len(), text.clone()), (1024, crate::event::bounded(format!("{long}{end}"))));
    }
    assert_eq!((fields.time, texts[0] != texts[1] && texts[1] != texts[2]), (None, true));
}

#[test]
fn the_elements_of_a_batch_keep_their_bytes() {
    let body = "\n[ {\"id\" :1,\t\"x\":\"é\\u00e9\"} ,{\"id\":2.0},\r\n[3 ] ]\n";
    let profile = preset("custom").with(Field::Id, alternatives(&[&["/id"], &["/0"]]));
    let found = events(read(&profile.with_split(Some(Pointer::default())), body.as_bytes()));
    let bodies: Vec<_> = found.iter().map(|e| std::str::from_utf8(&e.body).unwrap()).collect();
    assert_eq!(bodies, ["{\"id\" :1,\t\"x\":\"é\\u00e9\"}", "{\"id\":2.0}", "[3 ]"]);
    let ids: Vec<_> = found.iter().map(|e| e.sender_id.as_deref().unwrap()).collect();
    assert_eq!(ids, ["1", "2.0", "3"]);
}

#[test]
fn auto_detects_each_element_of_a_split() {
    let profile = preset("auto").with_split(Some(Pointer::parse("/batch").unwrap()));
    let body = br#"{"batch":[{"topicName":"channel.metadata"},{"source":"aws.partner/genesys.com/x","id":"a"},{"eventId":"b"}]}"#;
    let found = events(read(&profile, body));
    assert_eq!(found.iter().map(|e| e.sender_id.as_deref()).collect::<Vec<_>>(), [Some("a"), Some("b")]);
    let beats = read(&profile, br#"{"batch":[{"topicName":"channel.metadata"}]}"#);
    assert_eq!(beats, Ok(Found::Heartbeat { event_type: "channel.metadata".to_owned() }));
    let kept = preset("azure-event-grid").with_split(None);
    assert_eq!(events(read(&kept, b"[{},{}]")).len(), 2);
}

#[test]
fn batches_are_bounded_and_must_be_there() {
    let profile = preset("azure-event-grid");
    assert_eq!(events(read(&profile, b"[1,2,3]")).len(), 3);
    assert_eq!(read(&profile, b"[1,2,3,4]"), Err(Unreadable::TooManyEvents { max: 3 }));
    assert_eq!(read(&profile, b"[]"), Err(Unreadable::Empty));
    assert_eq!(events(read(&profile, b"{}")).len(), 1, "one event that was sent without its array");
    let engage = preset("genesys-engage-interactions");
    let missing = Err(Unreadable::NotAnArray { pointer: "/data/entities".to_owned() });
    assert_eq!(read(&engage, br#"{"data":{"entities":{}}}"#), missing);
    assert_eq!(read(&engage, b"[]"), missing);
    assert_eq!(only(read(&preset("cloudevents"), br#"{"source":"s","id":"1"}"#)).sender_id.as_deref(), Some("s|1"));
    assert_eq!(events(read(&preset("cloudevents"), br#"[{"id":"1"},{"id":"2"}]"#)).len(), 2);
}

#[test]
fn a_body_that_is_not_one_json_value_is_refused_with_its_offset() {
    let cases: [(&[u8], &str); 16] = [
        (b"{\"secret\": tru}", "line 1 column 15"),
        (b"{\n  \"a\": 1,\n}", "line 3 column 1"),
        (b"{} {}", "line 1 column 4"),
        (b"7 8", "line 1 column 3"),
        (b"[1] x", "line 1 column 5"),
        (b"{\"a\":01}", "line 1 column 7"),
        (b"{\"a\":\"\n\"}", "line 1 column 6"),
        (b"{\"a\" 1}", "line 1 column 6"),
        (b"secret", "line 1 column 1"),
        (b"\"secret", "line 1 column 7"),
        (b"secret=1&id=2", "line 1 column 1"),
        (b"{\"a\":{\"secret\":\"\\x\"}}", "line 1 column 18"),
        (b"{\n\"a\":\"secret\xFF\"}", "invalid UTF-8 at line 2 column 12"),
        (b"{\"\xC0\x80\":1}", "invalid UTF-8 at line 1 column 3"),
        (b"\xEF\xBB\xBF\xEF\xBB\xBF{}", "line 1 column 1"),
        (b"\xFF\xFE{\0}\0", "UTF-16"),
    ];
    for (body, place) in cases {
        for name in ["auto", "custom"] {
            let error = read(&preset(name), body).unwrap_err();
            assert!(matches!(error, Unreadable::NotJson { .. }), "{error}");
            let message = error.to_string();
            assert!(message.contains(place) && !message.contains("secret"), "{message} for {}", body.escape_ascii());
        }
    }
    for body in ["", " \r\n\t"] {
        assert_eq!(read(&preset("auto"), body.as_bytes()), Err(Unreadable::Empty));
    }
}

#[test]
fn depth_is_bounded_everywhere() {
    let nested = |levels: usize| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
    let profile = preset("auto");
    assert_eq!(events(read(&profile, nested(64).as_bytes())).len(), 1);
    let deep = Err(Unreadable::TooDeep { max: 64 });
    for body in [nested(65), nested(100_000), "[".repeat(100_000), "{\"a\":".repeat(100_000)] {
        assert_eq!(read(&profile, body.as_bytes()), deep);
    }
    assert_eq!(read(&profile, format!("{{\"x\":{}}}", nested(64)).as_bytes()), deep);
    assert_eq!(read(&profile, format!("{{\"detail\":{}}}", nested(64)).as_bytes()), deep);
    // Brackets within strings, and adjacent ones, do not count as nesting.
    let flat = format!("[\"{}\\\"[[\",{}{{}}]", "[{".repeat(100), "[],{},".repeat(100));
    assert_eq!(events(read(&profile, flat.as_bytes())).len(), 1);
}

/// Levels over the parser's own recursion limit do not overflow the stack, if an operator allows them.
#[test]
fn a_high_depth_limit_does_not_grow_the_stack() {
    let levels = 1_000_000;
    let body = Bytes::from(format!("{{\"detail\":{}{}}}", "[".repeat(levels), "]".repeat(levels)));
    let request = Request { headers: &HeaderMap::new(), query: None, body: &body };
    let found = preset("auto").read(&request, &Limits { depth_max: usize::MAX, events_max: 1 });
    assert_eq!(events(found).len(), 1);
}
