//! The command line: the real binary against a real daemon, its output and its exit codes.

use crate::harness::bench::{body, request, wait_for};
use crate::harness::process::{Process, Ran, run};
use crate::harness::receiver::{Receiver, held, status};
use serde_json::{Value, json};

const EAGER: &str = "retry = { base = \"10ms\", max = \"20ms\" }";

fn parsed(ran: &Ran) -> Value {
    assert_eq!(ran.code, 0, "{ran:?}");
    serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {ran:?}"))
}

/// Asserts the exit code, and that the output contains each of these texts.
fn says(ran: &Ran, code: i32, words: &[&str]) {
    assert_eq!(ran.code, code, "{ran:?}");
    for word in words {
        assert!(ran.out.contains(word) || ran.err.contains(word), "`{word}` is not in {ran:#?}");
    }
}

#[tokio::test]
async fn check_prints_every_fault_with_its_place_and_a_remedy() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broken.toml");
    let broken = "[intake]\nmax_bdy = \"1MiB\"\nsuccess_status = 201\n\n[[source]]\nname = \"Genesys\"\nprofile = \"genesis-trigger\"\n\n\
         [[destination]]\nname = \"crm\"\nurl = \"crm.internal/x\"\ntimeout = 10\nauth = { kind = \"bearer\", token = \"hunter2\" }\n";
    std::fs::write(&path, broken).unwrap();
    let ran = run(folder.path(), &["check", "--config", "broken.toml"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (2, ""));
    let lines: Vec<&str> = ran.err.lines().collect();
    for (line, (place, remedy)) in lines.iter().zip([
        ("broken.toml:2:1: intake.max_bdy: unknown key", "write `max_body`"),
        ("broken.toml:3:18: intake.success_status: 201 is not 200 or 202", "write 202, or 200"),
        ("broken.toml:6:8: source[0].name: \"Genesys\" is not a name", "write 1 to 63 of a-z"),
        ("broken.toml:7:11: source[0].profile: \"genesis-trigger\" is not known", "write \"genesys-trigger\""),
        ("broken.toml:11:7: destination[0].url: \"crm.internal/x\" has no scheme", "write \"https://crm.internal/x\""),
        ("broken.toml:12:11: destination[0].timeout: ", "write "),
        ("broken.toml:13:35: destination[0].auth.token: a secret does not stand in", "write { file = ... }"),
    ]) {
        let told = line.split_once("; ").unwrap_or_else(|| panic!("no remedy: {line}"));
        assert!(told.0.starts_with(place) && told.1.contains(remedy), "{line}\nis not\n{place} ... {remedy}");
    }
    assert_eq!(lines.len(), 7, "{}", ran.err);
    assert!(!ran.err.contains("hunter2"));

    says(&run(folder.path(), &["check", "--config", "absent.toml"]).await, 2, &["absent.toml: cannot be read"]);
    says(
        &run(folder.path(), &["serve", "--config", "broken.toml"]).await,
        2,
        &["broken.toml:2:1", "nothing was started"],
    );
    std::fs::write(
        &path,
        "[intake]\nmax_in_flight = \"64MiB\"\n[[source]]\nname = \"a\"\n[[destination]]\nname = \"b\"\n",
    )
    .unwrap();
    for command in ["check", "serve"] {
        let told = "broken.toml:2:1: intake.max_in_flight: intake.max_in_flight is now intake.max_buffered_bytes";
        says(&run(folder.path(), &[command, "--config", "broken.toml"]).await, 2, &[told]);
    }
    let good = "[[source]]\nname = \"a\"\n[[destination]]\nname = \"b\"\nurl = \"http://127.0.0.1:9/\"\n";
    std::fs::write(&path, good).unwrap();
    let ran = run(folder.path(), &["check", "--config", "broken.toml"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "broken.toml: ok (1 source, 1 destination)\n"));
}

#[tokio::test]
async fn check_reads_what_a_start_reads_and_names_what_it_cannot_see() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join(name), text).unwrap();
    write("bare", "hunter2hunter2hunter2hunter2hunter2");
    write("empty", "\n");
    write("two-lines", "hunter2\nhunter2");
    write("good", "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=");
    let file = |name: &str| format!("{{ file = {:?} }}", folder.path().join(name));
    let out =
        |name: &str, more: &str| format!("[[destination]]\nname = {name:?}\nurl = \"http://127.0.0.1:9/\"\n{more}\n");
    let tokened =
        |secrets: &str| format!("[[source]]\nname = \"a\"\nauth = {{ kind = \"bearer\", token = {secrets} }}\n");
    let oauth2 = format!(
        "auth = {{ kind = \"oauth2\", token_url = \"http://127.0.0.1:9/\", client_id = \"x\", client_secret = {} }}",
        file("absent")
    );
    let missing = folder.path().join("absent").display().to_string();
    let faulty = tokened(&file("empty"))
        + &out("signed", &format!("sign = {{ secret = [{}, {}, {}] }}", file("bare"), file("good"), file("absent")))
        + &out("header", &format!("auth = {{ kind = \"bearer\", token = {} }}", file("two-lines")))
        + &out("oauth2", &oauth2)
        + &out("tls", &format!("tls = {{ ca = {missing:?} }}")).replace("http:", "https:");
    write("faulty.toml", &faulty);
    let ran = run(folder.path(), &["check", "--config", "faulty.toml"]).await;
    says(
        &ran,
        2,
        &[
            "faulty.toml: source `a`: the secret in file",
            "empty is empty; put the secret there",
            "faulty.toml: destination `signed`: the secret in file",
            "bare: it does not begin with `whsec_`; write `whsec_` and the key in base64",
            "faulty.toml: destination `header`: the secret of destination `header` holds characters that no header can",
            "faulty.toml: destination `oauth2`: the secret in file",
            "faulty.toml: destination `tls`: `tls.ca`",
            "absent cannot be read: No such file",
        ],
    );
    assert_eq!(ran.err.lines().filter(|line| !line.contains(": warning: ")).count(), 6, "{}", ran.err);
    assert!(!ran.err.contains("hunter2"), "{}", ran.err);
    let elsewhere = tokened("{ env = \"HOLDLINE_NOT_SET\" }")
        + &out("b", &format!("sign = {{ secret = [{}, {{ credential = \"key\" }}] }}", file("good")));
    write("elsewhere.toml", &elsewhere);
    let ran = run(folder.path(), &["check", "--config", "elsewhere.toml"]).await;
    let told = "elsewhere.toml: ok (1 source, 1 destination)\n\
        not checked: source `a`: the secret in environment variable HOLDLINE_NOT_SET, which is not set here; the service needs it\n\
        not checked: destination `b`: the secret in credential key, which is not set here; the service needs it\n";
    assert_eq!((ran.code, ran.out.as_str()), (0, told), "{}", ran.err);
}

#[tokio::test]
async fn wrong_use_ends_with_2_and_no_daemon_with_3() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [
        &["frobnicate"] as &[&str],
        &[],
        &["status", "--admin", "nonsense"],
        &["status", "--config", "absent.toml"],
        &["events", "list", "--state", "lost"],
        &["dlq", "redrive"],
        &["send"],
        &["serve", "--to", "crm/x"],
    ] {
        assert_eq!(run(folder.path(), arguments).await.code, 2, "{arguments:?}");
    }
    std::fs::write(folder.path().join("a.json"), "{}").unwrap();
    let nobody = "http://127.0.0.1:9";
    for arguments in [
        &["status", "--admin", nobody] as &[&str],
        &["events", "list", "--admin", nobody],
        &["dlq", "redrive", "--all", "--admin", nobody],
        &["send", "a.json", "--intake", nobody],
    ] {
        let ran = run(folder.path(), arguments).await;
        says(&ran, 3, &["holdline serve"]);
        assert_eq!(ran.out, "");
    }
    for arguments in [&["--help"] as &[&str], &["--version"], &["help", "serve"], &["dlq", "purge", "--help"]] {
        assert_eq!(run(folder.path(), arguments).await.code, 0, "{arguments:?}");
    }
    let version = run(folder.path(), &["--version"]).await.out;
    assert_eq!(version, format!("holdline {}\n", env!("CARGO_PKG_VERSION")));
}

#[tokio::test]
async fn status_and_events_show_what_the_daemon_knows() {
    let receiver = Receiver::start(|r| if r.interaction() == "stuck" { held(status(200)) } else { status(200) }).await;
    let process = Process::start(&receiver.url(), EAGER).await;
    let good = process.accept("good", "1").await;
    let stuck = process.accept("stuck", "2").await;
    let behind = process.accept("stuck", "3").await;
    process.reaches("/counters/delivered", 1).await;
    let ran = process.run(&["status"]).await;
    says(&ran, 0, &["accepted    3", "1 delivered", "1 in flight", "1 blocked", "default", "open"]);
    assert!(ran.out.lines().all(|line| line.chars().count() <= 80), "{}", ran.out);
    assert_eq!(parsed(&process.run(&["status", "--json"]).await)["counters"]["accepted"], json!(3));

    let ran = process.run(&["events", "list"]).await;
    says(&ran, 0, &[&good, &stuck, &behind, "delivered", "in_flight", "blocked", "interaction.completed"]);
    let list = parsed(&process.run(&["events", "list", "--json", "--state", "blocked"]).await);
    assert_eq!((list["items"].as_array().unwrap().len(), &list["items"][0]["id"]), (1, &json!(behind)));
    let pages = parsed(&process.run(&["events", "list", "--json", "--all", "--limit", "1"]).await);
    assert_eq!(pages["items"].as_array().unwrap().len(), 3);
    says(&process.run(&["events", "list", "--limit", "2"]).await, 0, &["There are more: --after 2"]);
    says(&process.run(&["events", "list", "--interaction", "nobody"]).await, 0, &["None that fits"]);
    says(&process.run(&["events", "show", &behind]).await, 0, &[&behind, "blocked", &stuck, "stuck"]);
    assert_eq!(parsed(&process.run(&["events", "show", &good, "--json"]).await)["id"], json!(good));

    let unknown = "019a2b3c-4d5e-7000-8000-00fffc000000";
    says(&process.run(&["events", "show", unknown]).await, 1, &["no event with this id is known"]);
    let token = process.folder.path().join("wrong");
    std::fs::write(&token, "wrong").unwrap();
    says(&process.run(&["status", "--token-file", token.to_str().unwrap()]).await, 1, &["token"]);
}

#[tokio::test]
async fn dead_letters_are_listed_redriven_and_discarded() {
    let receiver = Receiver::start(|r| status(if r.attempt() == 1 { 422 } else { 200 })).await;
    let process = Process::start(&receiver.url(), EAGER).await;
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(process.accept(&format!("k{n}"), &n.to_string()).await);
    }
    process.has_dead(5).await;
    says(&process.run(&["dlq", "list"]).await, 0, &[&ids[0], &ids[4], "permanent", "422"]);
    let list = parsed(&process.run(&["dlq", "list", "--json", "--interaction", "k3"]).await);
    assert_eq!(list["items"][0]["id"], json!(ids[3]));
    says(&process.run(&["dlq", "show", &ids[0]]).await, 0, &["permanent", "status 422", "{\"said\":\"so\"}", "k0"]);
    let ran = process.run(&["dlq", "show", &ids[0], "--body"]).await;
    assert_eq!((ran.code, ran.out.as_bytes()), (0, body("k0", "0").as_slice()));

    says(&process.run(&["dlq", "redrive", "--all", "--dry-run"]).await, 0, &["5 dead letters would be queued again"]);
    says(&process.run(&["dlq", "redrive", &ids[0]]).await, 0, &["1 dead letter queued again"]);
    process.reaches("/counters/delivered", 1).await;
    says(&process.run(&["dlq", "redrive", &ids[0]]).await, 1, &["no dead letter has these ids"]);
    says(&process.run(&["dlq", "redrive", "--interaction", "k1"]).await, 0, &["1 dead letter queued again"]);
    says(&process.run(&["dlq", "purge", "--all"]).await, 2, &["--yes"]);
    says(&process.run(&["dlq", "purge", &ids[2], "--yes"]).await, 0, &["1 dead letter discarded"]);
    let answer = parsed(&process.run(&["dlq", "purge", "--all", "--yes", "--json"]).await);
    assert_eq!(answer, json!({"matched": 2, "done": 2, "destinations": {"default": 2}}));
    process.reaches("/dlq/depth", 0).await;
    says(&process.run(&["dlq", "list"]).await, 0, &["None."]);
    says(&process.run(&["dlq", "show", &ids[4]]).await, 1, &["not in the dead letter queue"]);
}

#[tokio::test]
async fn bodies_are_sent_from_files_and_refusals_are_shown() {
    let receiver = Receiver::good().await;
    let process = Process::start(&receiver.url(), EAGER).await;
    let file = |name: &str, content: &[u8]| {
        std::fs::write(process.folder.path().join(name), content).unwrap();
    };
    let many: Vec<u8> = (0..10).flat_map(|n| [body("k", &n.to_string()), b"\n".to_vec()].concat()).collect();
    file("many.ndjson", &many);
    file("one.json", &body("k", "one"));
    file("bad.ndjson", b"{}\nnonsense\n");
    file("empty.json", b"");
    let ran = process.run(&["send", "many.ndjson", "one.json", "many.ndjson"]).await;
    says(&ran, 0, &["21 requests sent: accepted 11, duplicates 10, refused 0"]);
    process.reaches("/counters/delivered", 11).await;
    let bodies: Vec<_> = receiver.all().into_iter().map(|r| r.body).collect();
    let wanted: Vec<_> = (0..10).map(|n| body("k", &n.to_string())).chain([body("k", "one")]).collect();
    assert_eq!(bodies, wanted, "in their order");
    let ran = process.run(&["send", "bad.ndjson"]).await;
    says(&ran, 1, &["accepted 1, duplicates 0, refused 1", "bad.ndjson:2: 400 invalid_json"]);
    says(&process.run(&["send", "one.json", "--source", "nobody"]).await, 1, &["404 unknown_source", "--source"]);
    says(&process.run(&["send", "empty.json"]).await, 2, &["nothing in it to send"]);
    says(&process.run(&["send", "absent.json"]).await, 2, &["absent.json"]);
    let answer = process.run(&["send", "bad.ndjson", "--json"]).await;
    assert_eq!(answer.code, 1);
    let answer: Value = serde_json::from_str(&answer.out).unwrap();
    assert_eq!((&answer["refused"], &answer["refusals"][0]["code"]), (&json!(1), &json!("invalid_json")));
}

#[tokio::test]
async fn the_demo_succeeds_and_its_counts_agree() {
    let folder = tempfile::tempdir().unwrap();
    let ran = run(folder.path(), &["demo", "--events", "60", "--seed", "1"]).await;
    says(&ran, 0, &["out of order", "lost"]);
    wait_for("its folder is gone", async || std::fs::read_dir(folder.path()).unwrap().next().is_none().then_some(()))
        .await;
}

#[tokio::test]
async fn explain_says_why_an_event_is_dead_and_what_to_do() {
    let receiver = Receiver::start(|_| status(422)).await;
    let process = Process::start(&receiver.url(), EAGER).await;
    let id = process.accept("k", "1").await;
    process.has_dead(1).await;
    let hints = [format!("holdline dlq show {id}"), format!("holdline dlq redrive {id}")];
    for arguments in [&["explain", &id] as &[&str], &["events", "show", &id]] {
        let ran = process.run(arguments).await;
        says(&ran, 0, &["to default: dead (permanent), answered 422", "1 attempt", "status 422", &hints[0], &hints[1]]);
    }
    says(&process.run(&["explain", "--interaction", "k"]).await, 0, &["default: dead (permanent), answered 422"]);
}

#[tokio::test]
async fn status_and_explain_show_deliveries_behind_a_dead_letter() {
    let receiver = Receiver::start(|_| status(422)).await;
    let process = Process::start(&receiver.url(), "ordering = { on_dead_letter = \"hold\" }").await;
    let dead = process.accept("k", "1").await;
    process.has_dead(1).await;
    let held = process.accept("k", "2").await;
    process.reaches("/queue/blocked", 1).await;
    let hint = "holdline dlq redrive --destination default";
    let words = ["1 delivery of 1 interaction waits behind dead letters of default, the oldest for", hint];
    says(&process.run(&["status"]).await, 0, &[&words[..], &["blocked by DLQ"]].concat());
    let ran = process.run(&["explain", "--destination", "default"]).await;
    let line = format!("{held} to default: blocked by dead_letter, behind {dead}");
    says(&ran, 0, &[&words[..], &["1 waiting (0 delayed, 1 blocked)", "the oldest waits for", &line]].concat());
    assert!(!ran.out.contains("nothing holds it"), "{}", ran.out);
}

#[tokio::test]
async fn every_filter_of_the_api_has_a_flag() {
    let receiver = Receiver::good().await;
    let process = Process::start(&receiver.url(), EAGER).await;
    let id = process.accept("k", "1").await;
    process.reaches("/counters/delivered", 1).await;
    let token = std::fs::read_to_string(process.folder.path().join("data/admin.token")).unwrap();
    let bearer = format!("Bearer {}", token.trim());
    let document = request(process.admin, "GET", "/openapi.json", &[("Authorization", &bearer)], b"").await.json();
    let reasons = document["components"]["schemas"]["Reason"]["enum"].as_array().unwrap();
    assert!(reasons.len() > 5, "{reasons:?}");
    for reason in reasons {
        let ran = process.run(&["dlq", "list", "--reason", reason.as_str().unwrap()]).await;
        says(&ran, 0, &["None that fits"]);
    }
    for (path, command) in [("/v1/events", "events"), ("/v1/dlq", "dlq")] {
        let help = run(process.folder.path(), &[command, "list", "--help"]).await.out;
        for parameter in document["paths"][path]["get"]["parameters"].as_array().unwrap() {
            // a list of dead letters selects by state already
            let name = parameter["name"].as_str().unwrap();
            let wanted = format!("--{name} ");
            assert!(help.contains(&wanted) || (command, name) == ("dlq", "state"), "{command} {wanted}\n{help}");
        }
    }
    says(&process.run(&["events", "list", "--since", "1h"]).await, 0, &[&id]);
    says(&process.run(&["events", "list", "--until", "1h"]).await, 0, &["None that fits"]);
}

#[tokio::test]
async fn a_request_refused_by_the_daemon_ends_with_2() {
    let process = Process::start("http://127.0.0.1:9/", "").await;
    for arguments in [
        &["pause", "default", "--for", "soon"] as &[&str],
        &["breaker", "default", "open", "--for", "0s"],
        &["intake", "close", "--for", "later"],
        &["dlq", "redrive", "--all", "--rate", "fast"],
        &["explain", "nonsense"],
        &["events", "show", "nonsense"],
    ] {
        let ran = process.run(arguments).await;
        assert_eq!((ran.code, ran.out.as_str()), (2, ""), "{arguments:?}: {ran:?}");
    }
    assert_eq!(process.run(&["pause", "nobody"]).await.code, 1);
    let ran = process.run(&["breaker", "default", "closed"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (0, "default has its breaker closed\n"));
}

#[tokio::test]
async fn an_event_is_discarded_only_on_confirmation_and_audited() {
    let receiver = Receiver::start(|r| status(if r.interaction() == "dead" { 422 } else { 503 })).await;
    let process = Process::start(&receiver.url(), "retry = { base = \"1h\", max = \"1h\", jitter = \"none\" }").await;
    let late = process.accept("late", "1").await;
    let dead = process.accept("dead", "2").await;
    process.reaches("/queue/delayed", 1).await;
    process.has_dead(1).await;
    for id in [&late, &dead] {
        says(&process.run(&["events", "discard", id]).await, 2, &["--yes"]);
        says(&process.run(&["events", "discard", id, "--dry-run"]).await, 0, &["1 delivery would be discarded"]);
        let ran = process.run(&["events", "discard", id, "--reason", "settled by hand", "--yes"]).await;
        says(&ran, 0, &["1 delivery discarded"]);
        let audit = process.run(&["audit", "--json"]).await;
        says(&audit, 0, &[&format!("event discard {id}: settled by hand")]);
        let status = if *id == dead { "422" } else { "503" };
        let told = [format!("discarded, answered {status}"), "1 attempt".into(), "holdline audit".into()];
        says(&process.run(&["explain", id]).await, 0, &told.each_ref().map(String::as_str));
    }
}

#[tokio::test]
async fn attempts_of_discarded_deliveries_stay_counted() {
    let receiver = Receiver::start(|r| status(if r.attempt() > 2 { 200 } else { 503 })).await;
    let process =
        Process::start(&receiver.url(), "retry = { base = \"1s\", factor = 10.0, max = \"1h\", jitter = \"none\" }")
            .await;
    let id = process.accept("late", "1").await;
    wait_for("it was tried twice", async || (receiver.of(&id).len() == 2).then_some(())).await;
    process.reaches("/queue/delayed", 1).await;
    let ran = process.run(&["discard", "default", "--all", "--reason", "gone", "--yes"]).await;
    says(&ran, 0, &["1 delivery discarded"]);
    let event = parsed(&process.run(&["events", "show", &id, "--json"]).await);
    let delivery = &event["deliveries"][0];
    let told = (&delivery["state"], &delivery["attempts"], &delivery["status"]);
    assert_eq!(told, (&json!("discarded"), &json!(2), &json!(503)), "{event}");
}

#[tokio::test]
async fn top_ends_with_0_when_it_is_interrupted() {
    let process = Process::start("http://127.0.0.1:9/", "").await;
    for signal in [rustix::process::Signal::INT, rustix::process::Signal::TERM] {
        let config = process.config.to_str().unwrap();
        let mut top = process.spawn_command(&["top", "--every", "1", "--config", config]);
        let mut first = [0; 8];
        let mut out = top.stdout.take().unwrap();
        std::io::Read::read_exact(&mut out, &mut first).unwrap();
        assert_eq!(&first, b"holdline");
        rustix::process::kill_process(rustix::process::Pid::from_child(&top), signal).unwrap();
        let ended = wait_for("it ends", async || top.try_wait().unwrap()).await;
        assert_eq!(ended.code(), Some(0), "{ended}");
    }
}

#[tokio::test]
async fn backups_report_json_and_restore_only_into_an_empty_folder() {
    let mut process = Process::start("http://127.0.0.1:9/", EAGER).await;
    process.accept("k", "1").await;
    let folder = process.folder.path().to_owned();
    let made = parsed(&process.run(&["backup", "copy", "--json"]).await);
    assert!(made["bytes"].as_u64().is_some_and(|bytes| bytes > 0) && made["file"].is_string(), "{made}");
    process.kill().await;
    std::fs::create_dir(folder.join("used")).unwrap();
    std::fs::write(folder.join("used/notes.txt"), "mine").unwrap();
    says(
        &run(&folder, &["restore", "copy", "--data", "used"]).await,
        1,
        &["used is not empty", "give an empty folder"],
    );
    assert_eq!(std::fs::read_dir(folder.join("used")).unwrap().count(), 1, "nothing was made");
    std::fs::create_dir(folder.join("empty")).unwrap();
    for target in ["empty", "absent"] {
        let restored = parsed(&run(&folder, &["restore", "copy", "--data", target, "--json"]).await);
        assert_eq!((&restored["accepted"], &restored["faults"]), (&json!(1), &json!([])));
    }
    says(&run(&folder, &["restore", "copy", "--data", "empty"]).await, 1, &["holds a store already"]);
    let verified = parsed(&run(&folder, &["verify", "--data", "empty", "--json"]).await);
    assert_eq!((&verified["waiting"], &verified["damaged"]), (&json!(1), &json!(0)));
    let repaired = parsed(&run(&folder, &["verify", "--data", "empty", "--repair", "--json"]).await);
    assert_eq!(repaired["set_aside"], json!([]));
    let salvaged = parsed(&run(&folder, &["verify", "--data", "empty", "--salvage", "new", "--json"]).await);
    assert_eq!((&salvaged["missing"], &salvaged["unaccounted"]), (&json!([]), &json!(0)), "{salvaged}");
}
