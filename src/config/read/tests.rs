//! Each kind of fault as an operator sees it, and the default configuration as it is shipped.

use super::*;
use crate::config::Flags;
use crate::config::settings::{
    ClientAuth, DestinationAuth, Handshake, OnDeadLetter, OnFault, OrderMode, PROFILES, Secret, ServerTls, SourceAuth,
    Token,
};
use crate::config::syntax::RENAMED;
use crate::rules::address_policy::AddressPolicy;
use crate::rules::backoff::{Jitter, OnAmbiguous};
use crate::rules::lateness::OnStale;
use crate::rules::lateness::Ttl;
use crate::rules::rate::Rate;
use crate::signature::{Algorithm, Encoding, Scheme, SecretEncoding, Stamp, StampPlace, StampUnit};
use http::HeaderName;
use std::num::NonZeroU32;

const SHIPPED: &str = include_str!("../../../packaging/holdline.toml");

fn faults(text: &str) -> Vec<String> {
    match parse(text, Path::new("h.toml")) {
        Ok(_) => Vec::new(),
        Err(faults) => faults.iter().map(ToString::to_string).collect(),
    }
}

/// The faults of a configuration that is whole but for these settings of one block.
fn faults_in(block: &str, settings: &str) -> Vec<String> {
    let (source, destination) = ("[[source]]\nname = \"s\"\n", "[[destination]]\nname = \"d\"\n");
    let text = match block {
        "source" => format!("source = [{{ name = \"s\", {settings} }}]\n{destination}"),
        "destination" => format!("destination = [{{ name = \"d\", {settings} }}]\n{source}"),
        _ => format!("{block} = {{ {settings} }}\n{source}{destination}"),
    };
    faults(&text)
}

/// Cases: a line `BLOCK: SETTINGS`, then the faults it has, indented and without their place.
const CASES: &str = include_str!("faults.txt");

#[test]
fn each_kind_of_fault_is_reported() {
    let mut lines = CASES.lines().filter(|l| !l.starts_with('#')).peekable();
    let mut cases = 0;
    while let Some(case) = lines.next() {
        let (block, settings) = case.split_once(": ").unwrap();
        let mut wanted = Vec::new();
        while let Some(fault) = lines.peek().and_then(|l| l.strip_prefix("    ")) {
            wanted.push(fault);
            lines.next();
        }
        let found = faults_in(block, settings);
        let found: Vec<&str> = found.iter().map(|f| f.split_once(": ").unwrap().1).collect();
        assert_eq!(found, wanted, "{case}");
        assert!(!wanted.is_empty() && !wanted.concat().contains("hunter"), "no fault, or a secret is shown: {case}");
        cases += 1;
    }
    assert!(cases > 90, "{cases}");
}

#[test]
fn old_names_are_faults_that_give_the_new_name() {
    for (place, old, new) in RENAMED {
        let (block, inner) = place.split_once('.').unwrap_or((place, ""));
        if *place == "alert.on" {
            let (message, remedy) = (format!("'{old} > 30s' is now \"{new} > 30s\""), format!("write \"{new} > 30s\""));
            let text = format!(
                "alert = [{{ url = 'https://a/', on = ['{old} > 30s'] }}]\n[[source]]\nname = 's'\n[[destination]]\nname = 'd'\n"
            );
            assert_eq!(faults(&text), [format!("h.toml:1:38: alert[0].on[0]: {message}; {remedy}")]);
            continue;
        }
        let settings = if inner.is_empty() { format!("{old} = 1") } else { format!("{inner} = {{ {old} = 1 }}") };
        let found = faults_in(block, &settings);
        let key = if inner.is_empty() { old.to_string() } else { format!("{inner}.{old}") };
        let now = key.replace(old, new);
        let at = if block == "intake" { "intake".to_owned() } else { format!("{block}[0]") };
        let wanted = format!("{at}.{key}: {at}.{key} is now {at}.{now}; write `{new}`");
        assert!(found.len() == 1 && found[0].ends_with(&wanted), "{found:?}\n{wanted}");
    }
}

#[test]
fn whole_files_are_read() {
    for (text, wanted) in FILES {
        assert_eq!(faults(text), *wanted, "{text}");
    }
}

const FILES: &[(&str, &[&str])] = &[
    (
        "",
        &[
            r#"h.toml:1:1: there is no [[source]]; add [[source]] with name = "genesys""#,
            r#"h.toml:1:1: there is no [[destination]]; add [[destination]] with name = "crm" and url = "https://...""#,
        ],
    ),
    (
        "source = []\ndestination = []",
        &[
            r#"h.toml:1:10: source: there is no [[source]]; add [[source]] with name = "genesys""#,
            r#"h.toml:2:15: destination: there is no [[destination]]; add [[destination]] with name = "crm" and url = "https://...""#,
        ],
    ),
    (
        "source = 3\n[destination]\nname = 'd'",
        &[
            "h.toml:1:10: source: `source` is one of several blocks; write it in double brackets, [[source]]",
            "h.toml:2:1: destination: `destination` is one of several blocks; write it in double brackets, [[destination]]",
        ],
    ),
    (
        "[[source]]\nname = 'a'\n[[source]]\nname = 'a'\n[[destination]]",
        &[
            "h.toml:4:8: source[1].name: 'a' is the name of source[0] already; write another name",
            r#"h.toml:5:1: destination[0]: `name` is missing; write name = "crm""#,
        ],
    ),
    (
        "[[source]]\nname = 'A'\n[[destination]]\nname = ''\n[[destination]]\nname = 3\n",
        &[
            "h.toml:2:8: source[0].name: 'A' is not a name; write 1 to 63 of a-z, 0-9, _ and -, the first of them a letter or digit",
            "h.toml:4:8: destination[0].name: '' is not a name; write 1 to 63 of a-z, 0-9, _ and -, the first of them a letter or digit",
            r#"h.toml:6:8: destination[1].name: expected a string, found an integer; write a name such as "crm""#,
        ],
    ),
    (
        "[[source]]\nname = 's'\nto = ['CRM']\n[[destination]]\nname = 'CRM'\n",
        &[
            "h.toml:5:8: destination[0].name: 'CRM' is not a name; write 1 to 63 of a-z, 0-9, _ and -, the first of them a letter or digit",
        ],
    ),
    (
        "[[source]]\nname = 's'\nhandshakes = ['zoom', 'meta']\n[[source]]\nname = 't'\nhandshakes = []\n\
         verify_token = { env = 'A' }\n[[source]]\nname = 'u'\nunwrap = 'Message'\n[[destination]]\nname = 'd'\n",
        &[
            r#"h.toml:3:14: source[0].handshakes: "meta" cannot be answered without its secret; write verify_token = { file = "..." }"#,
            r#"h.toml:3:14: source[0].handshakes: "zoom" cannot be answered without its secret; write auth = { kind = "hmac", preset = "zoom", secrets = ... }"#,
            r#"h.toml:7:16: source[1].verify_token: no handshake looks at it; add "meta" to `handshakes`, or remove it"#,
            r#"h.toml:10:10: source[2].unwrap: "Message" is no pointer; write "/Message""#,
        ],
    ),
    (
        "[[source]]\nname = 's'\n[[destination]]\nname = 'd'\n[[alert]]\n[stor]\n[other]\n",
        &[
            r#"h.toml:5:1: alert[0]: neither url nor command is given; write url = "https://..." or command = [...]"#,
            r#"h.toml:5:1: alert[0]: `on` is missing; write on = ["dead_letter", "oldest_age > 5m"]"#,
            "h.toml:6:2: stor: unknown key; write `store`",
            "h.toml:7:2: other: unknown key; remove it; known here: intake, admin, store, alert, source, destination, dlq, quarantine, history",
        ],
    ),
    (
        "[[source]]\nname = 's'\n[[destination]]\nname = 'd'\n[[alert]]\nurl = 'https://a/'\ncommand = []\n\
         on = ['queue_depth > many', 'dead_letter', 'silence < 5m']\n",
        &[
            r#"h.toml:5:1: alert[0]: url and command are given at once; write url = "https://..." or command = [...]"#,
            r#"h.toml:7:11: alert[0].command: the command is empty; write ["/usr/local/bin/page", "oncall"]"#,
            r#"h.toml:8:7: alert[0].on[0]: 'queue_depth > many' is not a condition; write one of dead_letter, breaker_open, disk_low, intake_refused, damaged, dlq_over_limit, history_full, retry_after_cut, "queue_depth > 10000", "oldest_age > 5m", "silence > 15m", "disk_full < 6h", "outage > 30s", "certificate < 14d""#,
            r#"h.toml:8:44: alert[0].on[2]: 'silence < 5m' is not a condition; write one of dead_letter, breaker_open, disk_low, intake_refused, damaged, dlq_over_limit, history_full, retry_after_cut, "queue_depth > 10000", "oldest_age > 5m", "silence > 15m", "disk_full < 6h", "outage > 30s", "certificate < 14d""#,
        ],
    ),
    (
        "a = 10s\n[b\n",
        &[
            "h.toml:1:5: not TOML: string values must be quoted, expected literal string; write [block] or key = value, with texts, durations and sizes in quotes",
            "h.toml:2:3: not TOML: unclosed table, expected `]`; write [block] or key = value, with texts, durations and sizes in quotes",
        ],
    ),
    (
        "[intake]\nlisten = 1\nlisten = 2\n[source]\n[source]\n",
        &[
            "h.toml:3:1: `listen` is written twice; keep one of them; blocks that may be repeated are [[source]] and [[destination]]",
            "h.toml:5:2: `source` is written twice; keep one of them; blocks that may be repeated are [[source]] and [[destination]]",
        ],
    ),
    (
        "é = 'ö' x",
        &[
            "h.toml:1:9: not TOML: unexpected key or value, expected newline, `#`; write [block] or key = value, with texts, durations and sizes in quotes",
        ],
    ),
    (
        "a = 'x\n",
        &[
            "h.toml:1:7: not TOML: invalid literal string, expected `'`; write [block] or key = value, with texts, durations and sizes in quotes",
        ],
    ),
];

#[test]
fn ten_faults_are_reported_at_once_in_file_order() {
    let text = "[dlq]\nevict = 'no'\n[admin]\ntoken = 'x'\n[intake]\nmax_body = '1'\nlisten = 'x'\nbody_timeout = '3'\n\
                [[destination]]\nname = 'D'\nurl = 'ftp://x'\nrate = 3\n[[source]]\nname = 's'\nprofil = 'auto'\nto = ['E']\n";
    let at: Vec<String> = faults(text).iter().map(|f| f.splitn(4, ':').take(2).skip(1).collect()).collect();
    assert_eq!(at, ["2", "4", "6", "7", "8", "10", "11", "12", "15", "16"]);
}

#[test]
fn the_64th_destination_is_the_last() {
    let blocks: String = (0..65).map(|n| format!("[[destination]]\nname = 'd{n}'\n")).collect();
    let wanted = "h.toml:131:1: destination[64]: there are more than 64 destinations; \
                  remove some, or run a second holdline for them";
    assert_eq!(faults(&format!("[[source]]\nname = 's'\n{blocks}")), [wanted]);
}

#[test]
fn a_file_that_cannot_be_read_is_a_fault() {
    let dir = tempfile::tempdir().unwrap();
    let missing = load(&dir.path().join("x.toml")).unwrap_err().to_string();
    assert!(missing.contains("x.toml: cannot be read: No such file"), "{missing}");
    assert!(missing.ends_with("; write the path of a file that is there, or leave out --config"), "{missing}");
    assert!(load(dir.path()).unwrap_err().to_string().ends_with("; write the path of a file"));
    let bytes = dir.path().join("bytes.toml");
    std::fs::write(&bytes, b"\xff").unwrap();
    assert!(load(&bytes).unwrap_err().to_string().ends_with("; write it in UTF-8"));
}

#[test]
fn every_key_is_read() {
    let s = parse(FULL, Path::new("h.toml")).unwrap_or_else(|faults| panic!("{faults}"));
    assert_eq!(s.intake.listen, ["0.0.0.0:1".parse().unwrap(), "[::1]:2".parse().unwrap()]);
    assert!(s.intake.inherit);
    assert_eq!((s.intake.max_body_bytes, s.intake.max_header_bytes), (2 << 20, 8192));
    assert_eq!((s.intake.success_status, s.intake.disk_reserve_bytes), (200, 2_000_000));
    let tls = ServerTls { cert: "c".into(), key: "k".into(), client_ca: Some("a".into()) };
    assert_eq!((s.intake.tls.as_ref(), s.intake.max_connections_per_address), (Some(&tls), Some(7)));
    assert!(matches!(&s.admin.token, Token::Given(Secret::Credential(name)) if name == "admin"));
    assert_eq!((s.store.path.to_str(), s.store.require_power_safe), (Some("data"), true));
    let source = s.source("in-1").unwrap();
    assert_eq!(source.pointers.key, Some(vec![vec!["/a".into(), "/b~1c".into()], vec!["header:X-Key".into()]]));
    assert_eq!(source.pointers.id, Some(vec![vec!["body:sha256".into()]]));
    assert_eq!((source.pointers.time.as_ref(), source.pointers.split.as_deref()), (None, Some("")));
    assert_eq!((source.pointers.unwrap.as_deref(), source.verify_token.len()), (Some("/Message"), 2));
    assert_eq!(source.handshakes, Some(vec![Handshake::Meta, Handshake::Slack]));
    assert_eq!((source.to.as_slice(), source.types.as_slice()), (&["b".to_owned()][..], &["x.*".to_owned()][..]));
    let [a, b, c, d, e] = s.destinations.as_slice() else { panic!("five destinations") };
    assert_eq!(source.rate_limit, Some(Rate::new(NonZeroU32::new(60).unwrap(), Duration::from_secs(60))));
    check_auths(&source.auth);
    assert_eq!(s.source("in-2").unwrap().auth, []);
    assert!(matches!(&a.auth, Some(DestinationAuth::Bearer { token: Secret::Env(name) }) if name == "A"));
    assert!(matches!(&b.auth, Some(DestinationAuth::Basic { user, .. }) if user == "u"));
    assert!(matches!(&c.auth, Some(DestinationAuth::Header { name, .. }) if name == "x-key"));
    let Some(DestinationAuth::OAuth2(oauth2)) = &d.auth else { panic!("{:?}", d.auth) };
    assert_eq!((oauth2.client_id.as_str(), oauth2.client_auth, &oauth2.scope), ("i", ClientAuth::Body, &None));
    assert!(matches!(e.auth, Some(DestinationAuth::Mtls)));
    assert_eq!([a.sign.len(), b.sign.len(), e.sign.len()], [2, 0, 1]);
    assert_eq!((a.tls.ca.as_deref(), e.tls.ca.as_deref()), (Some(Path::new("ca.pem")), None));
    assert!(a.tls.identity == e.tls.identity && e.tls.identity.is_some());
    assert_eq!(a.success.as_ref().map(|s| s.equals.to_string()).as_deref(), Some("0"));
    assert_eq!(d.success.as_ref().map(|s| s.equals.to_string()).as_deref(), Some("true"));
    assert_eq!((a.address_policy, a.retry.on_ambiguous), (AddressPolicy::Anywhere, OnAmbiguous::DeadLetter));
    assert_eq!((b.address_policy, b.retry.on_ambiguous), (AddressPolicy::Guarded, OnAmbiguous::Retry));
    assert_eq!((a.retry.factor, a.retry.jitter, a.retry.attempts), (3.0, Jitter::None, Some(5)));
    assert_eq!(a.retry.statuses, std::iter::once(429).chain(300..400).collect());
    assert_eq!((a.ordering.mode, a.ordering.on_dead_letter), (OrderMode::None, OnDeadLetter::Hold));
    let ttl = [("*", 3600), ("a.*", 120)].map(|(pattern, s)| (pattern.to_owned(), Duration::from_secs(s)));
    assert_eq!((&a.ttl, &b.ttl), (&Ttl::new(ttl.into()), &Ttl::default()));
    assert_eq!(a.ordering.reorder_window, Duration::from_secs(2));
    assert_eq!((a.ordering.on_stale, b.ordering.on_stale), (OnStale::Discard, OnStale::Flag));
    assert_eq!((a.concurrency_max, b.concurrency_max, a.timeout), (8, 64, Duration::from_millis(1500)));
    assert_eq!((s.quarantine.retention, s.quarantine.max_bytes), (Duration::from_secs(172_800), 1 << 20));
    assert_eq!((s.quarantine.source_share, s.quarantine.unverified_share), (0.25, 1.0));
    assert_eq!(source.trust_unsigned, Some(vec!["header:X-Key".to_owned(), "query:t".to_owned()]));
    assert_eq!((source.on_bad_signature, source.on_invalid_body), (OnFault::Quarantine, OnFault::Quarantine));
    assert_eq!((s.dlq.retention, s.dlq.max_bytes, s.dlq.evict), (Duration::from_secs(86_400), 10_000_000, true));
    assert_eq!((s.dlq.source_share, s.intake.source_share, s.intake.queue_share), (0.3, 0.6, 0.8));
}

fn check_auths(auths: &[SourceAuth]) {
    let [
        SourceAuth::Hmac { scheme: stripe, secrets },
        SourceAuth::Hmac { scheme: own, .. },
        SourceAuth::Bearer { tokens },
        SourceAuth::Basic { .. },
        SourceAuth::Header { .. },
        SourceAuth::Query { .. },
    ] = auths
    else {
        panic!("{auths:?}")
    };
    assert_eq!((secrets.len(), tokens.len()), (2, 2));
    let stamp = Stamp { tolerance: Duration::from_secs(60), ..Scheme::preset("stripe").unwrap().stamp.unwrap() };
    let x_sig =
        Scheme { header: HeaderName::from_static("x-sig"), stamp: Some(stamp), ..Scheme::preset("stripe").unwrap() };
    assert_eq!(*stripe, x_sig);
    let (place, unit) = (StampPlace::Header(HeaderName::from_static("x-t")), StampUnit::Milliseconds);
    let expected = Scheme {
        header: HeaderName::from_static("x-s"),
        algorithm: Algorithm::Sha512,
        encoding: Encoding::Base64,
        prefix: "a=".to_owned(),
        separator: None,
        signed: "{id}:{ts}:{body}".parse().unwrap(),
        stamp: Some(Stamp { place, unit, tolerance: Scheme::TOLERANCE }),
        id: Some(HeaderName::from_static("x-i")),
        secret_encoding: SecretEncoding::Hex,
    };
    assert_eq!(*own, expected);
}

const FULL: &str = r#"
intake = { listen = ["0.0.0.0:1", "systemd", "[::1]:2"], max_body = "2MiB", max_headers = 8192, max_connections_per_address = 7, tls = { cert = "c", key = "k", client_ca = "a" }, source_share = 0.6, success_status = 200, disk_reserve = "2MB" }
admin = { token = { credential = "admin" } }
store = { path = "data", require_power_safe = true }
dlq = { retention = "1d", max_bytes = "10MB", source_share = 0.3, evict = true }
quarantine = { retention = "2d", max_bytes = "1MiB", source_share = 0.25, unverified_share = 1 }
[[source]]
name = "in-1"
profile = "custom"
key = [["/a", "/b~1c"], "header:X-Key"]
trust_unsigned = ["header:X-Key", "query:t"]
id = "body:sha256"
split = ""
unwrap = "/Message"
handshakes = ["slack", "meta", "slack"]
verify_token = [{ env = "A" }, { env = "B" }]
to = ["b"]
types = ["x.*"]
rate_limit = "60/m"
on_bad_signature = "quarantine"
on_invalid_body = "quarantine"
auth = [
    { kind = "hmac", preset = "stripe", header = "X-Sig", tolerance = "1m", secrets = [{ env = "A" }, { env = "B" }] },
    { kind = "hmac", header = "X-S", algorithm = "sha512", encoding = "base64", prefix = "a=", signed = "{id}:{ts}:{body}", timestamp = "header:X-T", timestamp_unit = "ms", id_header = "X-I", secret_encoding = "hex", secrets = { env = "A" } },
    { kind = "bearer", token = [{ env = "A" }, { env = "B" }] },
    { kind = "basic", user = "u", password = { env = "A" } },
    { kind = "header", name = "X-Key", value = { env = "A" } },
    { kind = "query", name = "token", value = { env = "A" } },
]
[[source]]
name = "in-2"
auth = { kind = "none" }
[[destination]]
name = "a"
url = "http://10.0.0.1:9000/x?y=z"
timeout = "1s 500ms"
concurrency = { max = 8, adaptive = false }
retry = { factor = 3, jitter = "none", attempts = 5, statuses = [429, "3xx"], on_ambiguous = "dead-letter" }
ordering = { mode = "none", on_dead_letter = "hold", on_stale = "discard", reorder_window = "2s" }
ttl = { "*" = "1h", "a.*" = "2m" }
auth = { kind = "bearer", token = { env = "A" } }
tls = { ca = "ca.pem", cert = "c.pem", key = "k.pem" }
sign = { secret = [{ env = "A" }, { env = "B" }] }
success = { json_pointer = "/code", equals = 0 }
allow_link_local = true
[[destination]]
name = "b"
auth = { kind = "basic", user = "u", password = { env = "A" } }
[[destination]]
name = "c"
auth = { kind = "header", name = "X-Key", value = { env = "A" } }
[[destination]]
name = "d"
auth = { kind = "oauth2", token_url = "https://a/t", client_id = "i", client_secret = { env = "A" }, client_auth = "body" }
success = { json_pointer = "/ok", equals = true }
[[destination]]
name = "e"
auth = { kind = "mtls" }
tls = { cert = "c.pem", key = "k.pem" }
sign = { secret = { env = "A" } }
"#;

#[test]
fn the_shipped_file_is_the_defaults() {
    let shipped = parse(SHIPPED, Path::new("holdline.toml")).unwrap_or_else(|faults| panic!("{faults}"));
    let mut built_in = Settings::embedded(&Flags::default()).unwrap();
    built_in.store = Store::default();
    assert_eq!(format!("{shipped:#?}"), format!("{built_in:#?}"));
}

#[test]
fn every_example_in_the_shipped_file_works() {
    let setting =
        |line: &str| line.split_once(" = ").is_some_and(|(key, _)| key.chars().all(|c| c.is_alphabetic() || c == '_'));
    let (settings, alerts) = SHIPPED.split_once("# [[alert]]\n").unwrap();
    let examples: Vec<&str> = settings.lines().filter_map(|l| l.strip_prefix("# ")).filter(|l| setting(l)).collect();
    assert!(examples.len() > 11, "{examples:?}");
    for example in examples {
        assert_eq!(faults(&SHIPPED.replacen(&format!("# {example}"), example, 1)), [""; 0], "{example}");
    }
    let examples: Vec<&str> = alerts.lines().filter_map(|l| l.strip_prefix("# ")).collect();
    let examples = examples.into_iter().filter(|l| setting(l) || l.starts_with("[[")).collect::<Vec<_>>().join("\n");
    assert_eq!(faults(&format!("{settings}[[alert]]\n{examples}")), [""; 0], "{examples}");
}

#[test]
fn the_shipped_file_names_every_key_and_profile() {
    let marked = SHIPPED.replace("\n[[source]]", "\n[[source]]\nzzzzzzzzzzzz = 1");
    let marked = marked.replace("\n[[destination]]", "\n[[destination]]\nzzzzzzzzzzzz = 1");
    let marked: String =
        ["intake", "admin", "store", "destination.retry", "destination.ordering", "dlq", "quarantine", "history"]
            .iter()
            .fold(marked, |text, block| {
                text.replace(&format!("\n[{block}]"), &format!("\n[{block}]\nzzzzzzzzzzzz = 1"))
            });
    let found = faults(&marked);
    assert_eq!(found.len(), 10, "{found:?}");
    for fault in &found {
        let (_, known) = fault.split_once("known here: ").unwrap();
        for key in known.split(", ") {
            let written = SHIPPED.lines().any(|l| l.trim_start_matches("# ").starts_with(&format!("{key} = ")));
            let written = written || SHIPPED.contains(&format!(".{key}]"));
            assert!(written, "{key} is missing; {fault}");
        }
    }
    for profile in PROFILES {
        assert!(SHIPPED.contains(&format!("\"{profile}\"")), "{profile}");
    }
}

#[test]
fn byte_order_marks_and_crlf_are_accepted() {
    let text = format!("\u{feff}{}", SHIPPED.replace('\n', "\r\n"));
    assert_eq!(faults(&text), [""; 0]);
}

#[test]
fn a_file_cut_short_or_with_a_byte_missing_is_read_or_refused() {
    let whole = FULL.replace("u\"", "ü\"");
    let mut refused = 0;
    for (at, c) in whole.char_indices() {
        let without = format!("{}{}", &whole[..at], &whole[at + c.len_utf8()..]);
        for text in [&whole[..at], &without] {
            refused += usize::from(!faults(text).is_empty());
        }
    }
    assert!(refused > 1000, "{refused}");
}
