//! The daemon and the servers next to it as processes that end with their handle.

use crate::compare::Plan;
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long a process may take to come up.
const START_MAX: Duration = Duration::from_secs(30);

/// A process that is killed when it is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An address of 127.0.0.1 that nobody listens on.
pub(crate) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?)
}

async fn until_listening(address: SocketAddr, process: &mut Process) -> Result<()> {
    let begin = Instant::now();
    while TcpStream::connect(address).await.is_err() {
        if let Some(status) = process.0.try_wait()? {
            bail!("the process that should listen on {address} ended: {status}");
        }
        if begin.elapsed() > START_MAX {
            bail!("nobody listens on {address}");
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(())
}

/// What a server next to the daemon does with a body.
pub(crate) enum Does<'a> {
    Nothing,
    Append(&'a Path),
    Forward(&'a str),
}

/// A server to compare with, as a process of its own.
pub(crate) struct Bare {
    pub(crate) url: String,
    _process: Process,
}

impl Bare {
    pub(crate) async fn start(does: Does<'_>, workers: Option<usize>) -> Result<Self> {
        let address = free_address()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bare", "--listen", &address.to_string()]);
        match does {
            Does::Nothing => &mut command,
            Does::Append(file) => command.arg("--append").arg(file),
            Does::Forward(to) => command.arg("--forward").arg(to),
        };
        if let Some(workers) = workers {
            command.args(["--workers", &workers.to_string()]);
        }
        let mut process = Process(command.spawn()?);
        until_listening(address, &mut process).await?;
        Ok(Self { url: format!("http://{address}/in/default"), _process: process })
    }
}

/// A sink as a process of its own -> its URL.
pub(crate) struct Sink {
    pub(crate) url: String,
    _process: Process,
}

impl Sink {
    pub(crate) async fn start() -> Result<Self> {
        let address = free_address()?;
        let mut command = Command::new(std::env::current_exe()?);
        let mut process =
            Process(command.args(["sink", "--listen", &address.to_string()]).stdout(Stdio::null()).spawn()?);
        until_listening(address, &mut process).await?;
        Ok(Self { url: format!("http://{address}/"), _process: process })
    }
}

/// `holdline serve` on its own data folder.
pub(crate) struct Daemon {
    pub(crate) url: String,
    admin: SocketAddr,
    data: PathBuf,
    _process: Process,
}

impl Daemon {
    /// Without `to`, events are held.
    pub(crate) async fn start(plan: &Plan, data: &Path, to: Option<&str>) -> Result<Self> {
        let (binary, intake, admin) = (&plan.binary, free_address()?, free_address()?);
        let mut command = Command::new(binary);
        if let Some(workers) = plan.workers {
            command.env("TOKIO_WORKER_THREADS", workers.to_string()); // which tokio reads
        }
        command.arg("serve").arg("--data").arg(data);
        command.args(["--intake", &intake.to_string(), "--admin", &admin.to_string()]);
        if let Some(url) = to {
            command.args(["--to", url]);
        }
        let log = std::fs::File::create(data.with_extension("log"))?;
        let spawned = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
        let mut process = Process(spawned.with_context(|| format!("start {}", binary.display()))?);
        for address in [intake, admin] {
            let listening = until_listening(address, &mut process).await;
            listening.with_context(|| {
                let said = std::fs::read_to_string(data.with_extension("log")).unwrap_or_default();
                format!("{} did not come up; it said: {said}", binary.display())
            })?;
        }
        let daemon =
            Self { url: format!("http://{intake}/in/default"), admin, data: data.to_owned(), _process: process };
        // it listens before it is ready; this connection waits until it is
        daemon.get("/healthz", "").await?;
        Ok(daemon)
    }

    async fn get(&self, path: &str, token: &str) -> Result<String> {
        let mut stream = TcpStream::connect(self.admin).await?;
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n",
            self.admin
        );
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        Ok(answer)
    }

    pub(crate) async fn status(&self) -> Result<Value> {
        let token = std::fs::read_to_string(self.data.join("admin.token"))?;
        let answer = self.get("/v1/status", token.trim()).await?;
        let (head, body) = answer.split_once("\r\n\r\n").context("no body in the status")?;
        if !head.contains(" 200 ") {
            bail!("the status was answered {}", head.lines().next().unwrap_or_default());
        }
        serde_json::from_str(body).context("the status is not JSON")
    }

    /// Waits until nothing is queued.
    pub(crate) async fn until_drained(&self) -> Result<()> {
        while self.status().await?["queue"]["depth"].as_u64().context("no queue.depth in the status")? > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}
