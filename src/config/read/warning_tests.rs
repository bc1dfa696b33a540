//! Each warning by an example, its siblings, and what is not warned of.

use super::*;
use crate::config::settings::{Identity, NamedToken, Scope, ServerTls};
use crate::config::{Flags, parse};
use std::path::PathBuf;

const GOOD: &str = "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08";
const OTHER: &str = "2c26b46b68ffc68ff99b453c1d30413413422d706483bfa0f98a5e886266e7ae";

/// A folder that only its owner reads, with a good secret in it.
struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        std::fs::create_dir(place.0.path().join("data")).unwrap();
        place.chmod("data", 0o700);
        place.write("good", GOOD);
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
        self.chmod(name, 0o600);
    }

    fn chmod(&self, name: &str, mode: u32) {
        std::fs::set_permissions(self.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
    }

    fn secret(&self, name: &str) -> Secret {
        Secret::File(self.path(name))
    }

    /// The warnings of a configuration in which `FILE` stands for this folder.
    fn of(&self, text: &str) -> Vec<String> {
        let text = text.replace("FILE", self.0.path().to_str().unwrap());
        let text = format!("[store]\npath = {:?}\n{text}", self.path("data"));
        let settings = parse(&text, Path::new("holdline.toml")).unwrap_or_else(|faults| panic!("{faults}"));
        warnings(&settings, None).iter().map(ToString::to_string).collect()
    }
}

/// With one source and one destination of these lines.
fn blocks(source: &str, destination: &str) -> String {
    format!("[[source]]\nname = \"a\"\n{source}\n[[destination]]\nname = \"crm\"\n{destination}\n")
}

#[test]
fn a_good_configuration_causes_no_warning() {
    let place = Place::new();
    place.write("other", OTHER);
    let text = blocks(
        r#"auth = { kind = "hmac", preset = "github", secrets = [{ file = "FILE/good" }] }"#,
        r#"url = "https://crm.internal/in?code=x"
           auth = { kind = "bearer", token = { file = "FILE/other" } }"#,
    );
    assert_eq!(place.of(&text), Vec::<String>::new());
    assert_eq!(warnings(&Settings::embedded(&Flags::default()).unwrap(), None), []);
}

#[test]
fn open_sources_and_open_admin_listeners_cause_warnings() {
    let place = Place::new();
    let listening = |intake: &str, admin: &str, source: &str| {
        let text = format!("[intake]\nlisten = \"{intake}\"\n[admin]\nlisten = \"{admin}\"\n{}", blocks(source, ""));
        place.of(&text)
    };
    let secured = r#"auth = { kind = "bearer", token = { file = "FILE/good" } }"#;
    for (intake, source, warned) in [
        ("127.0.0.1:1", "", false),
        ("[::1]:1", "", false),
        ("10.0.0.1:1", "", false),
        ("192.168.3.4:1", "", false),
        ("[fd00::1]:1", "", false),
        ("0.0.0.0:1", "", true),
        ("[::]:1", "", true),
        ("203.0.113.7:1", "", true),
        ("[2001:db8::1]:1", "", true),
        ("[::ffff:203.0.113.7]:1", "", true),
        ("0.0.0.0:1", r#"auth = { kind = "none" }"#, true),
        ("0.0.0.0:1", secured, false),
    ] {
        let found = listening(intake, "127.0.0.1:2", source);
        let said = found.iter().any(|w| w.starts_with("source `a`: everybody may send, and intake listens on"));
        assert_eq!((said, found.len()), (warned, usize::from(warned)), "{intake}: {found:?}");
    }
    for (admin, warned) in
        [("127.0.0.1:2", false), ("[::1]:2", false), ("10.0.0.1:2", true), ("0.0.0.0:2", true), ("[::]:2", true)]
    {
        let found = listening("127.0.0.1:1", admin, secured);
        let said = found.iter().any(|w| w.starts_with("admin.listen: tokens and bodies go over the network in clear"));
        assert_eq!((said, found.len()), (warned, usize::from(warned)), "{admin}: {found:?}");
    }
    let found = listening("203.0.113.7:1", "127.0.0.1:2", secured);
    assert!(found[0].starts_with("source `a`: its token goes over the network in clear text at 203.0.113.7:1; set "));
    assert_eq!(found.len(), 1, "{found:?}");
    let signed = r#"auth = { kind = "hmac", preset = "github", secrets = [{ file = "FILE/good" }] }"#;
    assert_eq!(listening("203.0.113.7:1", "127.0.0.1:2", signed), Vec::<String>::new());
    let mut settings = Settings::embedded(&Flags::default()).unwrap();
    settings.intake.listen = vec!["0.0.0.0:1".parse().unwrap()];
    assert_eq!(warnings(&settings, None).len(), 1);
    let (cert, key) = (place.path("none"), place.path("none"));
    settings.intake.tls = Some(ServerTls { cert, key, client_ca: Some(place.path("none")) });
    assert_eq!(warnings(&settings, None), [], "a client certificate is a proof too");
}

#[test]
fn weak_and_malformed_secrets_cause_warnings() {
    let place = Place::new();
    place.write("other", OTHER);
    let uses = [
        (r#"[admin]\ntoken = SECRET\n"#, "", "", "admin.token"),
        (r#"[admin]\ntokens = [{ name = "g", token = SECRET, scopes = ["read"] }]\n"#, "", "", "admin.tokens, `g`"),
        ("", r#"auth = { kind = "bearer", token = [{ file = "FILE/good" }, SECRET] }"#, "", "source `a`"),
        ("", r#"auth = { kind = "basic", user = "u", password = SECRET }"#, "", "source `a`"),
        ("", r#"auth = { kind = "header", name = "x-key", value = SECRET }"#, "", "source `a`"),
        ("", r#"auth = { kind = "query", name = "key", value = SECRET }"#, "", "source `a`"),
        ("", r#"auth = { kind = "hmac", preset = "github", secrets = [SECRET] }"#, "", "source `a`"),
        ("", "", r#"auth = { kind = "bearer", token = SECRET }"#, "destination `crm`"),
        ("", "", r#"auth = { kind = "basic", user = "u", password = SECRET }"#, "destination `crm`"),
        ("", "", r#"auth = { kind = "header", name = "x-key", value = SECRET }"#, "destination `crm`"),
        (
            "",
            "",
            r#"auth = { kind = "oauth2", token_url = "https://a/t", client_id = "i", client_secret = SECRET }"#,
            "destination `crm`",
        ),
        ("", "", "sign = { secret = SECRET }", "destination `crm`"),
    ];
    for (admin, source, destination, at) in uses {
        let destination = format!("url = \"https://crm\"\n{destination}");
        let text = format!("{admin}{}", blocks(source, &destination)).replace("\\n", "\n");
        let text = text.replace("SECRET", r#"{ file = "FILE/weak" }"#);
        for (value, message, remedy) in [
            ("short", "is shorter than 16 bytes", "openssl rand -hex 32"),
            ("aaaaaaaaaaaaaaaaaaaaaaaa", "is easily guessed", "openssl rand -hex 32"),
            ("changeme", "is a placeholder", "openssl rand -hex 32"),
            (&format!("\u{FEFF}{OTHER}"), "byte order mark", "printf %s"),
            (&format!("{OTHER} "), "blanks", "printf %s"),
            (&format!("{OTHER}\n\n"), "line breaks", "printf %s"),
            (&format!("'{OTHER}'"), "quotes", "without quotes"),
            (&format!("CRM_TOKEN={OTHER}"), "NAME=value", "behind the `=`"),
        ] {
            place.write("weak", value);
            let found = place.of(&text);
            let file = place.path("weak").display().to_string();
            let said = |w: &&String| w.starts_with(&format!("{at}: the secret in file {file} ")) && w.contains(message);
            assert_eq!(found.iter().filter(said).count(), 1, "{at} {value:?}: {found:?}");
            assert_eq!(found.len(), 1, "{at} {value:?}: {found:?}");
            assert!(found[0].contains(remedy) && !found[0].contains(OTHER), "{found:?}");
        }
        place.write("weak", OTHER);
        assert_eq!(place.of(&text), Vec::<String>::new(), "{at}");
    }
}

#[test]
fn a_key_has_the_length_of_its_decoded_bytes() {
    let place = Place::new();
    for (secret, encoding, warned) in [
        ("9f86d081884c7d65", "hex", true),
        ("9f86d081884c7d65", "utf8", false),
        ("9f86d081884c7d659a2feaa0c55ad015", "hex", false),
        ("n4bQgYhMfWWaL+o=", "base64", true),
    ] {
        place.write("key", secret);
        let auth = format!(
            r#"auth = {{ kind = "hmac", preset = "github", secret_encoding = "{encoding}", secrets = [{{ file = "FILE/key" }}] }}"#
        );
        let found = place.of(&blocks(&auth, ""));
        let said = found.iter().any(|w| w.contains("is shorter than 16 bytes"));
        assert_eq!((said, found.len()), (warned, usize::from(warned)), "{secret} {encoding}: {found:?}");
    }
}

#[test]
fn a_secret_used_twice_causes_a_warning_unless_one_system_gave_it() {
    let place = Place::new();
    place.write("copy", GOOD);
    let mut settings = Settings::embedded(&Flags::default()).unwrap();
    let bearer = |name: &str| DestinationAuth::Bearer { token: place.secret(name) };
    settings.destinations = ["one", "two"].map(Destination::named).to_vec();
    settings.destinations[0].auth = Some(bearer("good"));
    settings.destinations[1].auth = Some(bearer("copy"));
    assert_eq!(warnings(&settings, None), [], "two destinations may be one system");
    let scopes = vec![Scope::Read];
    settings.admin.tokens = vec![NamedToken { name: "g".into(), token: place.secret("good"), scopes }];
    settings.sources[0].auth = vec![SourceAuth::Bearer { tokens: vec![place.secret("copy")] }];
    let found: Vec<String> = warnings(&settings, None).iter().map(ToString::to_string).collect();
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found[0].starts_with("source `default`: ") && found[0].contains("the same as that of admin.tokens, `g`"));
}

#[test]
fn files_that_others_may_read_or_replace_cause_warnings() {
    let place = Place::new();
    let text = blocks(r#"auth = { kind = "bearer", token = { file = "FILE/good" } }"#, "");
    for (mode, warned) in [
        (0o400, None),
        (0o600, None),
        (0o640, None),
        (0o644, Some("others")),
        (0o604, Some("others")),
        (0o666, Some("others")),
        (0o602, Some("others")),
        (0o660, Some("its group")),
    ] {
        place.chmod("good", mode);
        let found = place.of(&text);
        assert_eq!(found.len(), usize::from(warned.is_some()), "{mode:o}: {found:?}");
        if let Some(who) = warned {
            assert!(found[0].contains(&format!("is open to {who} (mode {mode:o}); chmod 600 ")), "{found:?}");
        }
    }
    place.chmod("good", 0o600);
    for (mode, warned) in [(0o700, false), (0o750, true), (0o755, true), (0o701, true)] {
        place.chmod("data", mode);
        let found = place.of(&text);
        let said = found.iter().any(|w| w.starts_with("store.path: ") && w.contains("chmod 700"));
        assert_eq!((said, found.len()), (warned, usize::from(warned)), "{mode:o}: {found:?}");
    }
    place.chmod("data", 0o700);
    place.write("data/admin.token", GOOD);
    assert_eq!(place.of(&text), Vec::<String>::new());
    place.write("data/admin.token", "by-hand\n");
    place.chmod("data/admin.token", 0o644);
    let found = place.of(&text);
    assert!(found.len() == 2 && found.iter().all(|w| w.starts_with("admin.token: ")), "{found:?}");
    place.write("data/admin.token", GOOD);
    place.chmod("", 0o777);
    assert!(place.of(&text)[0].contains("everybody may put another file in the place of"));
    place.chmod("", 0o1777);
    assert_eq!(place.of(&text), Vec::<String>::new(), "a folder such as /tmp");
    place.chmod("", 0o700);
    place.write("key", "a key");
    place.chmod("key", 0o644);
    let mut settings = Settings::embedded(&Flags::default()).unwrap();
    settings.destinations[0].tls.identity = Some(Identity { cert: place.path("cert"), key: place.path("key") });
    settings.destinations[0].url = Some("https://crm".parse().unwrap());
    settings.intake.tls = Some(ServerTls { cert: place.path("cert"), key: place.path("key"), client_ca: None });
    let places: Vec<String> = warnings(&settings, None).into_iter().map(|w| w.place).collect();
    assert_eq!(places, ["intake.tls.key", "destination `default`"]);
}

#[test]
fn an_exposed_configuration_file_causes_a_warning() {
    let place = Place::new();
    place.write("holdline.toml", "");
    let with = |url: &str| {
        let mut settings = Settings::embedded(&Flags::default()).unwrap();
        settings.destinations[0].url = Some(url.parse().unwrap());
        settings
    };
    let (plain, coded) = (with("https://crm/in"), with("https://crm/in?code=s3cret"));
    let path = place.path("holdline.toml");
    for (mode, settings, wanted) in [
        (0o640, &coded, None),
        (0o644, &plain, None),
        (0o644, &coded, Some("everybody may read it")),
        (0o646, &plain, Some("everybody may write it")),
        (0o662, &coded, Some("everybody may write it")),
    ] {
        place.chmod("holdline.toml", mode);
        let found: Vec<String> = warnings(settings, Some(&path)).iter().map(ToString::to_string).collect();
        let said: Vec<bool> = found.iter().map(|w| wanted.is_some_and(|wanted| w.contains(wanted))).collect();
        assert_eq!(said, wanted.map(|_| true).into_iter().collect::<Vec<_>>(), "{mode:o}: {found:?}");
        assert!(!found.concat().contains("s3cret"));
    }
}

#[test]
fn unlikely_urls_cause_warnings() {
    let place = Place::new();
    let auth = r#"auth = { kind = "bearer", token = { file = "FILE/good" } }"#;
    let oauth2 = |url: &str| {
        format!(
            r#"url = "https://crm"
               auth = {{ kind = "oauth2", token_url = "{url}", client_id = "i", client_secret = {{ file = "FILE/good" }} }}"#
        )
    };
    let url = |url: &str| format!("url = {url:?}");
    let cases = [
        (oauth2("http://tokens.internal/t"), Some("token_url is plain http")),
        (oauth2("http://10.0.0.7/t"), Some("token_url is plain http")),
        (oauth2("http://127.0.0.1:9/t"), None),
        (oauth2("http://localhost/t"), None),
        (oauth2("http://localhost.evil.example/t"), Some("token_url is plain http")),
        (oauth2("https://tokens.internal/t"), None),
        (oauth2("https://169.254.169.254/t"), Some("token_url leads to 169.254.169.254, a link-local address")),
        (format!("{}\n{auth}", url("http://crm.internal")), Some("its credentials go over the network in clear text")),
        (format!("{}\n{auth}", url("http://[::1]:9")), None),
        (url("http://crm.internal"), None),
        (url("https://crm/{tenant}/x"), Some("url has braces in it")),
        (url("https://crm/x?a={{id}}"), Some("url has braces in it")),
        (url("https://crm/%7Btenant%7D"), Some("url has braces in it")),
        (format!("{}\ntls = {{ ca = \"/x\" }}", url("http://crm")), Some("`tls` has no effect")),
        (format!("{}\ntls = {{ ca = \"/x\" }}", url("https://crm")), None),
        (url("http://169.254.169.254/latest"), Some("url leads to 169.254.169.254, a link-local address")),
        (url("http://[fe80::1]/"), Some("url leads to fe80::1, a link-local address")),
        (url("http://[::ffff:169.254.1.1]/"), Some("a link-local address")),
        (url("http://2852039166/"), Some("url leads to 169.254.169.254")),
        (url("http://0xa9fea9fe/"), Some("url leads to 169.254.169.254")),
        (url("http://0.0.0.0:80/"), Some("an unspecified address")),
        (url("http://100.100.100.200/"), Some("the address of a metadata service")),
        (format!("{}\nallow_link_local = true", url("http://169.254.1.1/")), None),
        (url("http://10.0.0.1/"), None),
    ];
    for (destination, wanted) in cases {
        let found = place.of(&blocks("", &destination));
        assert_eq!(found.len(), usize::from(wanted.is_some()), "{destination}: {found:?}");
        assert!(wanted.is_none_or(|wanted| found[0].contains(wanted) && found[0].contains("; ")), "{found:?}");
    }
    for (url, wanted) in [
        ("https://pager.example/x", None),
        ("http://127.0.0.1:9/x", None),
        ("http://pager.example/x", Some("url is plain http")),
        ("https://pager.example/{key}", Some("url has braces in it")),
        ("http://127.0.0.1:8081/v1/status", Some("an address of holdline itself")),
        ("http://localhost:8080/in/a", Some("an address of holdline itself")),
    ] {
        let alert = format!("[[alert]]\nurl = \"{url}\"\non = [\"dead_letter\"]\n");
        let found = place.of(&format!("{}{alert}", blocks("", "")));
        assert_eq!(found.len(), usize::from(wanted.is_some()), "{url}: {found:?}");
        assert!(
            wanted.is_none_or(|wanted| found[0].starts_with("alert[0]: ") && found[0].contains(wanted)),
            "{found:?}"
        );
    }
}

#[test]
fn values_from_secrets_are_checked_like_literal_ones() {
    let place = Place::new();
    place.write("url", "http://169.254.169.254/{x}?code=s3cret");
    let found = place.of(&blocks("", r#"url = { file = "FILE/url" }"#));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(found[0].contains("url has braces") && found[1].contains("url leads to 169.254.169.254"), "{found:?}");
    assert!(!found.concat().contains("s3cret"), "{found:?}");
    place.chmod("url", 0o644);
    assert!(place.of(&blocks("", r#"url = { file = "FILE/url" }"#))[2].contains("is open to others"));
}
