//! A destination that plays a script: it decides for each request how to respond.

use crate::harness::bench::{read_message, wait_for};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

/// How the receiver handles a request.
#[derive(Clone, Debug)]
pub enum Act {
    Answer {
        status: u16,
        headers: Vec<(&'static str, String)>,
        body: Vec<u8>,
    },
    /// Handles the request this way once [`Receiver::release`] allows it.
    Blocked(Box<Self>),
    /// Resets the connection before any response.
    Reset,
    /// A response with this status whose body breaks off in the middle.
    HalfBody(u16),
    /// Half a head, then a reset.
    HalfHead,
    /// No response until the sender gives up.
    Never,
    /// These bytes unchanged, then the end of the connection.
    Raw(Vec<u8>),
    /// These bytes; the connection stays open.
    Bytes(Vec<u8>),
    /// These pieces, each in a packet of its own, then the end of the connection.
    Pieces(Vec<Vec<u8>>),
    /// These bytes, then single bytes until the sender gives up.
    Dribble(Vec<u8>),
}

pub fn status(status: u16) -> Act {
    Act::Answer { status, headers: Vec::new(), body: b"{\"said\":\"so\"}".to_vec() }
}

pub fn retry_after(status: u16, value: impl ToString) -> Act {
    Act::Answer { status, headers: vec![("Retry-After", value.to_string())], body: Vec::new() }
}

pub fn held(act: Act) -> Act {
    Act::Blocked(Box::new(act))
}

/// A request as received.
#[derive(Clone, Debug)]
pub struct Received {
    /// The number of the request, from 0.
    pub n: usize,
    pub line: String,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// Starts and ends of requests share one numbering, in the order in which they happen.
    pub began: usize,
    pub ended: Option<usize>,
}

impl Received {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut values = self.headers.iter().filter(|(n, _)| n == name);
        let first = values.next().map(|(_, value)| value.as_str());
        assert_eq!(values.next(), None, "{name} is there twice");
        first
    }

    pub fn id(&self) -> &str {
        self.header("idempotency-key").unwrap()
    }

    pub fn interaction(&self) -> &str {
        self.header("holdline-interaction-id").unwrap_or_default()
    }

    pub fn attempt(&self) -> u32 {
        self.header("holdline-attempt").unwrap().parse().unwrap()
    }

    pub fn sequence(&self) -> u64 {
        self.header("holdline-sequence").unwrap().parse().unwrap()
    }
}

type Script = Arc<dyn Fn(&Received) -> Act + Send + Sync>;

#[derive(Default)]
struct Log {
    all: Vec<Received>,
    clock: usize,
}

/// Listens until the runtime of the test ends.
#[derive(Clone)]
pub struct Receiver {
    pub addr: SocketAddr,
    log: Arc<Mutex<Log>>,
    open: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
}

impl Receiver {
    pub async fn start(script: impl Fn(&Received) -> Act + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let receiver = Self { addr, log: Arc::default(), open: Arc::default(), gate: Arc::new(Semaphore::new(0)) };
        let (script, it): (Script, _) = (Arc::new(script), receiver.clone());
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (it, script) = (it.clone(), script.clone());
                it.open.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(async move {
                    it.serve(stream, script).await;
                    it.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
        receiver
    }

    /// Responds to everything with success.
    pub async fn good() -> Self {
        Self::start(|_| status(200)).await
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook?x=1", self.addr)
    }

    pub fn to(&self) -> Option<String> {
        Some(self.url())
    }

    /// Releases `n` waiting requests, or as many of the next ones.
    pub fn release(&self, n: usize) {
        self.gate.add_permits(n);
    }

    /// The number of open connections.
    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Everything received so far.
    pub fn all(&self) -> Vec<Received> {
        self.log.lock().unwrap().all.clone()
    }

    pub fn count(&self) -> usize {
        self.log.lock().unwrap().all.len()
    }

    /// Waits for `n` requests, and returns all received so far.
    pub async fn received(&self, n: usize) -> Vec<Received> {
        wait_for(&format!("{n} requests have come"), async || (self.count() >= n).then_some(())).await;
        self.all()
    }

    /// The requests of one event.
    pub fn of(&self, id: &str) -> Vec<Received> {
        self.all().into_iter().filter(|r| r.id() == id).collect()
    }

    async fn serve(&self, stream: TcpStream, script: Script) {
        let mut stream = BufReader::new(stream);
        while let Some((line, headers, body)) = read_message(&mut stream, false).await {
            let received = {
                let mut log = self.log.lock().unwrap();
                log.clock += 1;
                let (n, began) = (log.all.len(), log.clock);
                let received = Received { n, line: line.trim_end().to_owned(), headers, body, began, ended: None };
                log.all.push(received.clone());
                received
            };
            let mut act = script(&received);
            while let Act::Blocked(then) = act {
                self.gate.acquire().await.unwrap().forget();
                act = *then;
            }
            if !self.act(&mut stream, act, received.n).await {
                return;
            }
        }
    }

    fn ended(&self, n: usize) {
        let mut log = self.log.lock().unwrap();
        log.clock += 1;
        log.all[n].ended = Some(log.clock);
    }

    /// Responds; returns whether the connection can be used again.
    async fn act(&self, stream: &mut BufReader<TcpStream>, act: Act, n: usize) -> bool {
        let head = |status: u16, length: usize| format!("HTTP/1.1 {status} x\r\nContent-Length: {length}\r\n");
        match act {
            Act::Answer { status, headers, body } => {
                let mut head = head(status, body.len());
                for (name, value) in headers {
                    head.push_str(&format!("{name}: {value}\r\n"));
                }
                // recorded before the response is sent: a sender that reads it may begin the next request at once
                self.ended(n);
                let answer = [head.as_bytes(), b"\r\n", &body].concat();
                return stream.get_mut().write_all(&answer).await.is_ok();
            }
            Act::HalfBody(status) => {
                self.ended(n);
                let answer = format!("{}\r\nhalf", head(status, 1000));
                let _ = stream.get_mut().write_all(answer.as_bytes()).await;
            }
            Act::HalfHead => {
                self.ended(n);
                let _ = stream.get_mut().write_all(b"HTTP/1.1 200 x\r\nContent-Le").await;
                let _ = stream.get_mut().flush().await;
            }
            Act::Reset => {
                self.ended(n);
                let _ = stream.get_mut().set_zero_linger();
            }
            Act::Never => {
                let _ = stream.read_u8().await;
                self.ended(n);
            }
            Act::Raw(bytes) => {
                self.ended(n);
                let _ = stream.get_mut().write_all(&bytes).await;
            }
            Act::Bytes(bytes) => {
                self.ended(n);
                return stream.get_mut().write_all(&bytes).await.is_ok();
            }
            Act::Pieces(pieces) => {
                let mut ticks = tokio::time::interval(Duration::from_millis(10));
                let _ = stream.get_mut().set_nodelay(true);
                for piece in pieces {
                    ticks.tick().await;
                    let _ = stream.get_mut().write_all(&piece).await;
                }
                self.ended(n);
            }
            Act::Dribble(bytes) => {
                let _ = stream.get_mut().write_all(&bytes).await;
                let mut ticks = tokio::time::interval(Duration::from_millis(10));
                while stream.get_mut().write_all(b"x").await.is_ok() {
                    ticks.tick().await;
                }
                self.ended(n);
            }
            Act::Blocked(_) => unreachable!("let go above"),
        }
        false
    }
}
