//! The real binary: the daemon as a process that can be killed, and the commands.

use crate::harness::bench::{Reply, body, request, wait_for};
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;
use tempfile::TempDir;

pub const BINARY: &str = env!("CARGO_BIN_EXE_holdline");

/// The output of a command, and its exit code.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Ran {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self { code: output.status.code().unwrap_or(-1), out: text(&output.stdout), err: text(&output.stderr) }
    }
}

/// Runs a command in `folder`, without environment variables that could change what it connects to.
pub async fn run(folder: &Path, arguments: &[&str]) -> Ran {
    let mut command = command(folder);
    command.args(arguments).stdin(Stdio::null());
    tokio::task::spawn_blocking(move || command.output().unwrap().into()).await.unwrap()
}

/// Runs a command as [`run`] does, with this umask.
pub async fn run_with_umask(folder: &Path, umask: &str, arguments: &[&str]) -> Ran {
    let mut shell = with_umask(folder, umask);
    shell.args(arguments).stdin(Stdio::null());
    tokio::task::spawn_blocking(move || shell.output().unwrap().into()).await.unwrap()
}

fn with_umask(folder: &Path, umask: &str) -> Command {
    let mut shell = Command::new("sh");
    shell.current_dir(folder).args(["-c", &format!("umask {umask}; exec \"$0\" \"$@\""), BINARY]);
    shell
}

/// Runs a command as [`run`] does, with these environment variables.
pub async fn run_with(folder: &Path, environment: &[(&str, &str)], arguments: &[&str]) -> Ran {
    let mut command = command(folder);
    command.args(arguments).stdin(Stdio::null()).envs(environment.iter().copied());
    tokio::task::spawn_blocking(move || command.output().unwrap().into()).await.unwrap()
}

/// Runs a pasted line in a shell.
pub async fn pasted(folder: &Path, line: &str) -> Ran {
    let mut shell = Command::new("sh");
    shell.current_dir(folder).args(["-c", line]).stdin(Stdio::null());
    for (name, _) in command(folder).get_envs().filter(|(_, value)| value.is_none()) {
        shell.env_remove(name);
    }
    tokio::task::spawn_blocking(move || shell.output().unwrap().into()).await.unwrap()
}

fn command(folder: &Path) -> Command {
    let mut command = Command::new(BINARY);
    command.current_dir(folder);
    for name in
        ["HOLDLINE_ADMIN", "HOLDLINE_ADMIN_TOKEN", "HOLDLINE_CONFIG", "HOLDLINE_LOG", "NOTIFY_SOCKET", "JOURNAL_STREAM"]
    {
        command.env_remove(name);
    }
    command
}

/// `holdline serve` with a configuration of its own.
pub struct Process {
    child: Option<Child>,
    pub folder: TempDir,
    pub config: PathBuf,
    pub intake: SocketAddr,
    pub admin: SocketAddr,
    log_filter: &'static str,
}

impl Process {
    /// Starts the daemon with one destination that gets `extra` lines of settings, and waits until it is ready.
    pub async fn start(url: &str, extra: &str) -> Self {
        Self::logging(url, extra, "holdline=info").await
    }

    pub async fn logging(url: &str, extra: &str, log_filter: &'static str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("holdline.toml");
        let (intake, admin) = (free_address(), free_address());
        let text = format!(
            "[intake]\nlisten = \"{intake}\"\ndisk_reserve = \"1MiB\"\n[admin]\nlisten = \"{admin}\"\n\
             [store]\npath = {:?}\n[[source]]\nname = \"default\"\n\
             [[destination]]\nname = \"default\"\nurl = \"{url}\"\n{extra}\n",
            folder.path().join("data")
        );
        std::fs::write(&config, text).unwrap();
        let mut process = Self { child: None, folder, config, intake, admin, log_filter };
        process.open().await;
        process
    }

    /// Starts the daemon again.
    pub async fn open(&mut self) {
        self.open_as(command(self.folder.path())).await;
    }

    /// Starts the daemon again with this umask.
    pub async fn open_with_umask(&mut self, umask: &str) {
        self.open_as(with_umask(self.folder.path(), umask)).await;
    }

    /// Starts the daemon again, unable to write past the first `blocks` of 512 bytes of any file.
    pub async fn open_limited(&mut self, blocks: u32) {
        let mut shell = Command::new("sh");
        // an ignored signal stays ignored, so that the write fails and the process is not killed
        let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
        shell.current_dir(self.folder.path()).args(["-c", &script, BINARY]);
        self.open_as(shell).await;
    }

    /// Starts the daemon as systemd would: with an open socket, and with a socket that receives its notifications.
    pub async fn open_activated(&mut self, socket: &std::net::TcpListener, notify: &Path, watchdog: Duration) {
        let mut shell = Command::new("sh");
        // the socket becomes descriptor 3, and the shell becomes the daemon
        let script = "exec 3<&0 0</dev/null; LISTEN_PID=$$ exec \"$0\" \"$@\"";
        shell.current_dir(self.folder.path()).args(["-c", script, BINARY]).env("LISTEN_FDS", "1");
        shell.env("NOTIFY_SOCKET", notify).env("WATCHDOG_USEC", watchdog.as_micros().to_string());
        shell.stdin(std::os::fd::OwnedFd::from(socket.try_clone().unwrap()));
        self.spawn(shell).await;
    }

    async fn open_as(&mut self, mut command: Command) {
        command.stdin(Stdio::null());
        self.spawn(command).await;
    }

    async fn spawn(&mut self, mut command: Command) {
        let log = File::options().create(true).append(true).open(self.log_path()).unwrap();
        command.args(["serve", "--log", "json", "--config"]).arg(&self.config).env("HOLDLINE_LOG", self.log_filter);
        let child = command.stdout(Stdio::null()).stderr(log).spawn().unwrap();
        self.child = Some(child);
        wait_for("the process is ready", async || {
            if let Some(status) = self.child.as_mut().unwrap().try_wait().unwrap() {
                panic!("it ended with {status}: {}", self.log());
            }
            tokio::net::TcpStream::connect(self.admin).await.ok()?;
            let reply = request(self.admin, "GET", "/readyz", &[], b"").await;
            (reply.status == 200).then_some(())
        })
        .await;
    }

    fn log_path(&self) -> PathBuf {
        self.folder.path().join("log")
    }

    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    pub fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(self.child.as_ref().unwrap());
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Waits until the process has ended; returns its exit code, or minus the signal that ended it.
    pub async fn ended(&mut self) -> i32 {
        let mut child = self.child.take().unwrap();
        let status = wait_for("the process ends", async || child.try_wait().unwrap()).await;
        status.code().unwrap_or_else(|| -status.signal().unwrap())
    }

    /// kill -9; waits until the process has ended.
    pub async fn kill(&mut self) {
        self.signal(rustix::process::Signal::KILL);
        assert_eq!(self.ended().await, -9);
    }

    pub async fn post(&self, body: &[u8]) -> Reply {
        request(self.intake, "POST", "/in/default", &[("Content-Type", "application/json")], body).await
    }

    pub async fn accept(&self, interaction: &str, id: &str) -> String {
        let reply = self.post(&body(interaction, id)).await;
        assert_eq!(reply.status, 202, "{}", reply.text());
        reply.json()["id"].as_str().unwrap().to_owned()
    }

    /// Runs a command against the daemon.
    pub async fn run(&self, arguments: &[&str]) -> Ran {
        let config = self.config.to_str().unwrap();
        run(self.folder.path(), &[arguments, &["--config", config]].concat()).await
    }

    /// Starts a command that runs until it is stopped.
    pub fn spawn_command(&self, arguments: &[&str]) -> Child {
        let mut command = command(self.folder.path());
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        command.spawn().unwrap()
    }

    pub async fn status(&self) -> serde_json::Value {
        let ran = self.run(&["status", "--json"]).await;
        assert_eq!(ran.code, 0, "{ran:?}");
        serde_json::from_str(&ran.out).unwrap()
    }

    pub async fn reaches(&self, pointer: &str, wanted: u64) {
        wait_for(&format!("{pointer} is {wanted}"), async || {
            (self.status().await.pointer(pointer)? == wanted).then_some(())
        })
        .await;
    }

    /// Waits until `wanted` dead letters are listed.
    pub async fn has_dead(&self, wanted: usize) {
        wait_for(&format!("{wanted} dead letters"), async || {
            let ran = self.run(&["dlq", "list", "--json", "--all"]).await;
            let list: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
            (list["items"].as_array().unwrap().len() == wanted).then_some(())
        })
        .await;
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A port that nothing listens on, below the range of ephemeral ports: it must still be free when the process is
/// started again.
pub fn free_address() -> SocketAddr {
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
    let clients = range.split_whitespace().next().and_then(|first| first.parse().ok()).unwrap_or(32_768);
    loop {
        let address = SocketAddr::from(([127, 0, 0, 1], fastrand::u16(clients / 2..clients)));
        if std::net::TcpListener::bind(address).is_ok() {
            return address;
        }
    }
}
