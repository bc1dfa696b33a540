//! `holdline receive` as the destination of a real daemon: what it prints, and the failures it simulates.

use crate::harness::bench::wait_for;
use crate::harness::process::{Process, free_address, run, run_with};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Lines};
use std::process::{Child, ChildStdout};

const SECRET: &str = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";

struct Receive {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Receive {
    fn start(process: &Process, arguments: &[&str]) -> Self {
        let mut child = process.spawn_command(&[&["receive"], arguments].concat());
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        self.lines.next().expect("it ended early").unwrap()
    }

    async fn ends_well(&mut self) {
        let ended = wait_for("it ends", async || self.child.try_wait().unwrap()).await;
        assert_eq!(ended.code(), Some(0), "{ended}");
    }
}

impl Drop for Receive {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_attempts_are_printed_as_json_and_made_again() {
    let address = free_address().to_string();
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(secret.path(), SECRET).unwrap();
    let extra = format!(
        "retry = {{ base = \"10ms\", max = \"20ms\" }}\nbreaker = {{ min_calls = 1000000 }}\nsign = {{ secret = {{ file = {:?} }} }}",
        secret.path()
    );
    let process = Process::start(&format!("http://{address}/hooks?a=b"), &extra).await;
    let flags = ["--json", "--fail", "0.5", "--status", "500", "--delay", "2ms", "--body", "--verify"];
    let flags = [&[address.as_str()], flags.as_slice(), &[secret.path().to_str().unwrap()]].concat();
    let mut receive = Receive::start(&process, &flags);
    let mut accepted = Vec::new();
    for n in 0..20 {
        accepted.push(process.accept(&format!("k{n}"), &n.to_string()).await);
    }
    let (mut attempts, mut requests): (BTreeMap<String, u64>, u64) = Default::default();
    let mut delivered = Vec::new();
    while delivered.len() < accepted.len() {
        let request: Value = serde_json::from_str(&receive.line()).unwrap();
        let id = request["event_id"].as_str().unwrap().to_owned();
        // attempts made before the receiver listened count, too
        let attempt = request["attempt"].as_u64().unwrap();
        assert!(attempts.insert(id.clone(), attempt).is_none_or(|earlier| earlier < attempt), "{request}");
        requests += 1;
        assert_eq!((&request["method"], &request["path"]), (&"POST".into(), &"/hooks?a=b".into()));
        assert_eq!(request["type"], "interaction.completed", "{request}");
        assert_eq!(request["signature"], "good", "{request}");
        assert_eq!(request["interaction"], request["body"]["data"]["interactionId"], "{request}");
        match request["status"].as_u64() {
            Some(200) => delivered.push(id),
            Some(500) => {}
            _ => panic!("{request}"),
        }
    }
    assert!(requests > 25, "half of the requests fail: {requests}");
    delivered.sort();
    accepted.sort();
    assert_eq!(delivered, accepted);
    process.reaches("/queue/depth", 0).await;
    kill_process(Pid::from_child(&receive.child), Signal::INT).unwrap();
    receive.ends_well().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_tells_the_request_and_a_count_ends_it() {
    let address = free_address().to_string();
    let process = Process::start(&format!("http://{address}/"), "retry = { base = \"10ms\", max = \"20ms\" }").await;
    let secret = process.folder.path().join("secret");
    std::fs::write(&secret, SECRET).unwrap();
    let id = process.accept("k", "1").await;
    let mut receive =
        Receive::start(&process, &[&address, "--count", "1", "--body", "--verify", secret.to_str().unwrap()]);
    let line = receive.line();
    let (time, rest) = line.split_once(' ').unwrap();
    assert_eq!(time.len(), "22:04:48.128".len(), "{line}");
    assert!(rest.starts_with(&format!("POST / 200  {id}  interaction.completed  interaction k  attempt ")), "{line}");
    assert!(rest.ends_with(" B  signature missing"), "{line}");
    let body: Vec<String> = std::iter::from_fn(|| receive.lines.next()).map(Result::unwrap).collect();
    let body: Value = serde_json::from_str(&body.concat()).unwrap();
    assert_eq!(body["data"]["interactionId"], "k");
    receive.ends_well().await;
    process.reaches("/counters/delivered", 1).await;
}

#[tokio::test]
async fn wrong_addresses_and_secrets_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let ran = run(folder.path(), &["receive", &address]).await;
    assert!(ran.code == 1 && ran.err.contains(&address) && ran.err.contains("name another address"), "{ran:?}");
    let ran = run(folder.path(), &["receive", "0", "--verify", "absent"]).await;
    assert!(ran.code == 2 && ran.err.contains("absent cannot be read"), "{ran:?}");
    let ran = run_with(folder.path(), &[("KEY", "short")], &["receive", "0", "--verify", "env:KEY"]).await;
    assert!(ran.code == 2 && ran.err.contains("--verify") && !ran.err.contains("short"), "{ran:?}");
}
