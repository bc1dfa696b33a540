//! How commands find the daemon and its files; and the commands that messages suggest work as printed.

use crate::harness::bench::wait_for;
use crate::harness::process::{Process, Ran, pasted, run, run_with};
use crate::harness::receiver::{Receiver, status};
use base64::Engine;
use clap::Parser;
use clap::error::ErrorKind;
use holdline::cli::Cli;
use std::path::Path;

fn says(ran: &Ran, code: i32, parts: &[&str]) {
    assert_eq!(ran.code, code, "{ran:?}");
    let all = format!("{}{}", ran.out, ran.err);
    parts.iter().for_each(|part| assert!(all.contains(part), "{part}: {ran:?}"));
}

/// Lines that are commands.
fn commands(ran: &Ran) -> Vec<String> {
    let lines = ran.out.lines().map(str::trim);
    lines.filter(|line| line.split(' ').next().unwrap().ends_with("/holdline")).map(str::to_owned).collect()
}

#[tokio::test]
async fn the_configuration_is_found_by_flag_and_environment() {
    let process = Process::start("http://127.0.0.1:9/", "").await;
    let elsewhere = tempfile::tempdir().unwrap();
    let config = process.config.to_str().unwrap();
    for command in [&["status"] as &[&str], &["dlq", "list"], &["check"], &["events", "list"]] {
        assert_eq!(run_with(elsewhere.path(), &[("HOLDLINE_CONFIG", config)], command).await.code, 0, "{command:?}");
    }
    let absent = [("HOLDLINE_CONFIG", "absent.toml")];
    says(&run_with(elsewhere.path(), &absent, &["status"]).await, 2, &["absent.toml"]);
    says(&run_with(elsewhere.path(), &absent, &["status", "--config", config]).await, 0, &["accepted"]);
    says(&run(elsewhere.path(), &["check"]).await, 2, &["--config FILE"]);
    says(&run_with(elsewhere.path(), &[("HOLDLINE_CONFIG", "")], &["check"]).await, 2, &["--config <FILE>"]);
}

#[tokio::test]
async fn suggested_commands_work_as_pasted() {
    let receiver = Receiver::start(|_| status(422)).await;
    let process = Process::start(&receiver.url(), "ordering = { on_dead_letter = \"hold\" }").await;
    let id = process.accept("k", "1").await;
    process.has_dead(1).await;
    process.accept("k", "2").await;
    process.reaches("/queue/blocked", 1).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let config = process.config.to_str().unwrap();
    let told = commands(&run(elsewhere.path(), &["explain", &id, "--config", config]).await);
    assert_eq!(told.len(), 3, "{told:?}");
    says(&pasted(elsewhere.path(), &told[0]).await, 0, &["permanent", "status 422"]);
    says(&pasted(elsewhere.path(), &format!("{} --dry-run", told[2])).await, 0, &["1 dead letter would be discarded"]);
    says(&pasted(elsewhere.path(), &told[1]).await, 0, &["1 dead letter queued again"]);
    wait_for("it died again", async || (receiver.count() == 2).then_some(())).await;
    process.has_dead(1).await;
    // with only the address and the token
    let (admin, token) = (format!("http://{}", process.admin), process.folder.path().join("data/admin.token"));
    let flags = ["--admin", admin.as_str(), "--token-file", token.to_str().unwrap()];
    let told = commands(&run(elsewhere.path(), &[&["status"] as &[&str], &flags].concat()).await);
    assert_eq!(told.len(), 2, "{told:?}");
    for hint in &told {
        says(&pasted(elsewhere.path(), &format!("{hint} --dry-run")).await, 0, &["1 dead letter would be"]);
    }
}

/// The documents, and the sources without their comments.
fn texts() -> Vec<(String, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut texts = Vec::new();
    for file in [
        "README.md",
        "packaging/docs/REFERENCE.md",
        "packaging/prometheus/holdline.rules.yml",
        "packaging/holdline.toml",
    ] {
        texts.push((file.to_owned(), std::fs::read_to_string(root.join(file)).unwrap()));
    }
    let mut folders = vec![root.join("src")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                let text = std::fs::read_to_string(&path).unwrap();
                let code: Vec<&str> = text.lines().filter(|line| !line.trim_start().starts_with("//")).collect();
                texts.push((path.display().to_string(), code.join("\n")));
            }
        }
    }
    texts
}

#[test]
fn every_command_in_texts_and_documents_exists() {
    let (mut seen, mut faults) = (0, Vec::new());
    for (file, text) in texts() {
        for quoted in text.split('`').skip(1) {
            let line = &quoted.trim_start_matches("sudo ").replace("{{ $labels.destination }}", "crm");
            let other = !line.starts_with("holdline ") || line.starts_with("holdline help ") || line.contains(" was ");
            if other || line.contains(['|', '[', '<', '\n', '…', '(']) || line.len() > 120 {
                continue;
            }
            seen += 1;
            let words = line.split_whitespace().map(|word| if word.starts_with('{') { "crm" } else { word });
            let bare = line.split_whitespace().count() <= 3 && !line.contains(" -");
            match Cli::try_parse_from(words).map_err(|error| error.kind()) {
                Ok(_) => {}
                // the bare name of a command, which nobody pastes
                Err(kind) if bare && kind != ErrorKind::InvalidSubcommand && kind != ErrorKind::UnknownArgument => {}
                Err(kind) => faults.push(format!("{file}: `{quoted}`: {kind:?}")),
            }
        }
    }
    assert_eq!(faults, Vec::<String>::new());
    assert!(seen > 30, "{seen}");
}

const SECRET: &str = "a-secret-of-this-site-0123456789";

/// Writes a configuration into a folder of its own; returns its path relative to `folder`.
fn beside(folder: &Path, lines: &str) -> String {
    let place = folder.join("etc");
    std::fs::create_dir_all(&place).unwrap();
    let text =
        format!("[store]\npath = \"data\"\n[[destination]]\nname = \"crm\"\n[[source]]\nname = \"s\"\n{lines}\n");
    std::fs::write(place.join("holdline.toml"), text).unwrap();
    "etc/holdline.toml".to_owned()
}

#[tokio::test]
async fn a_relative_path_counts_from_the_folder_of_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let auth = "auth = { kind = \"bearer\", token = { file = \"keys/token\" } }";
    let config = beside(folder.path(), auth);
    std::fs::create_dir(folder.path().join("etc/keys")).unwrap();
    std::fs::write(folder.path().join("etc/keys/token"), SECRET).unwrap();
    says(&run(folder.path(), &["check", "--config", &config]).await, 0, &["ok (1 source, 1 destination)"]);
    let settings = holdline::config::load(&folder.path().join(&config)).unwrap();
    assert_eq!(settings.store.path, Path::new("data"), "data stays where it is: in the working directory");
    // the file is not looked for in the working directory of the command
    std::fs::rename(folder.path().join("etc/keys"), folder.path().join("keys")).unwrap();
    std::fs::write(folder.path().join("one.json"), "{}").unwrap();
    for command in [&["check"] as &[&str], &["serve"], &["doctor"], &["send", "one.json"]] {
        let ran = run(folder.path(), &[command, &["--config", &config]].concat()).await;
        says(&ran, 2, &["keys/token cannot be read"]);
    }
    let started = ["data", "etc/data"].iter().any(|data| folder.path().join(data).exists());
    assert!(!started, "nothing was started");
}

#[tokio::test]
async fn bodies_are_sent_with_the_auth_of_the_source() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("key");
    let whole = format!("whsec_{}", base64::engine::general_purpose::STANDARD.encode(SECRET));
    std::fs::write(&key, whole).unwrap();
    let source = |name: &str, auth: &str| {
        let auth = auth.replace("KEY", &format!("{{ file = {key:?} }}"));
        format!("[[source]]\nname = \"{name}\"\nauth = {auth}\n")
    };
    let kinds = [
        ("bearer", r#"{ kind = "bearer", token = KEY }"#.to_owned()),
        ("basic", r#"{ kind = "basic", user = "u", password = KEY }"#.to_owned()),
        ("header", r#"{ kind = "header", name = "X-Api-Key", value = KEY }"#.to_owned()),
        ("query", r#"{ kind = "query", name = "code", value = KEY }"#.to_owned()),
    ];
    let presets = holdline::signature::PRESETS
        .map(|preset| (preset, format!(r#"{{ kind = "hmac", preset = "{preset}", secrets = [KEY] }}"#)));
    let all: Vec<_> = kinds.into_iter().chain(presets).collect();
    let extra: String = all.iter().map(|(name, how)| source(name, how)).collect();
    let process = Process::start("http://127.0.0.1:9/", &extra).await;
    std::fs::write(process.folder.path().join("one.json"), r#"{"a": 1}"#).unwrap();
    for (name, _) in &all {
        let ran = process.run(&["send", "one.json", "--source", name]).await;
        says(&ran, 0, &["1 request sent: accepted 1"]);
    }
    let wrong = ["send", "one.json", "--source", "bearer", "--header", "Authorization: Bearer wrong"];
    says(&process.run(&wrong).await, 1, &["401"]);
}

#[tokio::test]
async fn doctor_compares_the_running_daemon_with_the_configuration() {
    let process = Process::start("http://127.0.0.1:9/", "").await;
    let data = process.folder.path().join("data");
    let ran = process.run(&["doctor", "--json"]).await;
    assert!(ran.out.contains(&format!("{}, mode 700", data.display())), "{ran:?}");
    let text = std::fs::read_to_string(&process.config).unwrap();
    let other = process.folder.path().join("other.toml");
    let renamed = text.replace("[[destination]]\nname = \"default\"", "[[destination]]\nname = \"erp\"");
    std::fs::write(&other, renamed).unwrap();
    let ran = run(process.folder.path(), &["doctor", "--json", "--config", other.to_str().unwrap()]).await;
    assert!(ran.out.contains("differs in the destinations default, erp"), "{ran:?}");
}

#[tokio::test]
async fn a_missing_secret_or_certificate_ends_with_2() {
    let to = "[[destination]]\nname = \"erp\"\nurl = \"https://127.0.0.1:9/\"\n";
    for (lines, absent) in [
        ("auth = { kind = \"bearer\", token = { env = \"HOLDLINE_NOT_SET\" } }".to_owned(), "HOLDLINE_NOT_SET"),
        (
            format!("{to}auth = {{ kind = \"bearer\", token = {{ file = \"keys/out\" }} }}"),
            "etc/keys/out cannot be read",
        ),
        (
            format!(
                "{to}auth = {{ kind = \"oauth2\", token_url = \"http://127.0.0.1:9/\", client_id = \"x\", \
                 client_secret = {{ file = \"keys/oauth2\" }} }}"
            ),
            "etc/keys/oauth2 cannot be read",
        ),
        (format!("{to}tls = {{ ca = \"keys/ca.pem\" }}"), "etc/keys/ca.pem"),
        ("[intake.tls]\ncert = \"keys/cert.pem\"\nkey = \"keys/key.pem\"".to_owned(), "etc/keys/cert.pem"),
        ("[admin]\ntoken = { file = \"keys/admin\" }".to_owned(), "etc/keys/admin cannot be read"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let config = beside(folder.path(), &lines);
        says(&run(folder.path(), &["serve", "--config", &config]).await, 2, &[absent, "nothing was started"]);
        assert!(!folder.path().join("data").exists(), "nothing was started: {absent}");
        if !absent.contains("NOT_SET") {
            says(&run(folder.path(), &["check", "--config", &config]).await, 2, &[absent]);
        }
    }
}
