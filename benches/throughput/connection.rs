//! One keep-alive connection to an intake, by bare sockets or by hyper's client.
//!
//! Bare sockets cost the machine as little as can be, so that they show what the servers cost; hyper's client does what the
//! HTTP client of a real sender does. Both share the machine with the server that they measure.

use crate::body::Requests;
use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Client {
    Sockets,
    Hyper,
}

pub(crate) struct Connection {
    requests: Requests,
    out: String,
    wire: CountedStream,
}

enum CountedStream {
    Sockets { stream: TcpStream, answer: Vec<u8> },
    Hyper { sender: SendRequest<Full<Bytes>>, to: http::Uri, host: String },
}

impl Connection {
    pub(crate) async fn open(client: Client, to: &str, run: &str) -> Result<Self> {
        let (address, path) = split(to)?;
        let stream = TcpStream::connect(&address).await.with_context(|| format!("connect to {address}"))?;
        stream.set_nodelay(true)?;
        let requests = Requests::new(run.to_owned(), address.clone(), path.clone());
        let wire = match client {
            Client::Sockets => CountedStream::Sockets { stream, answer: vec![0; 16 * 1024] },
            Client::Hyper => {
                let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
                tokio::spawn(connection);
                CountedStream::Hyper { sender, to: path.parse()?, host: address }
            }
        };
        Ok(Self { requests, out: String::new(), wire })
    }

    /// Posts event `n` -> the status of the answer.
    pub(crate) async fn post(&mut self, n: u64) -> Result<u16> {
        match &mut self.wire {
            CountedStream::Sockets { stream, answer } => {
                self.requests.write(n, &mut self.out);
                stream.write_all(self.out.as_bytes()).await?;
                read_status(stream, answer).await
            }
            CountedStream::Hyper { sender, to, host } => {
                let body = Bytes::copy_from_slice(self.requests.body(n).as_bytes());
                let request = http::Request::post(to.clone())
                    .header(http::header::HOST, host.as_str())
                    .header(http::header::CONTENT_TYPE, "application/json")
                    .body(Full::new(body))?;
                sender.ready().await?;
                let answer = sender.send_request(request).await?;
                let status = answer.status().as_u16();
                answer.into_body().collect().await?;
                Ok(status)
            }
        }
    }
}

async fn read_status(stream: &mut TcpStream, answer: &mut [u8]) -> Result<u16> {
    let mut filled = 0;
    loop {
        let got = stream.read(&mut answer[filled..]).await?;
        if got == 0 {
            bail!("the connection was closed before the answer");
        }
        filled += got;
        if let Some(status) = complete(&answer[..filled])? {
            return Ok(status);
        }
    }
}

/// The status of an answer, once its last byte is there.
fn complete(answer: &[u8]) -> Result<Option<u16>> {
    let Some(head) = answer.windows(4).position(|w| w == b"\r\n\r\n") else { return Ok(None) };
    let text = std::str::from_utf8(&answer[..head])?;
    let status = text.split(' ').nth(1).context("no status in the answer")?.parse()?;
    let length = text.lines().filter_map(|line| line.split_once(':'));
    let length = length.filter(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    let length: usize = length.map(|(_, value)| value.trim()).next().unwrap_or("0").parse()?;
    Ok((answer.len() >= head + 4 + length).then_some(status))
}

/// `http://host:port/path` -> (`host:port`, `/path`).
pub(crate) fn split(url: &str) -> Result<(String, String)> {
    let rest = url.strip_prefix("http://").context("the URL begins with http://")?;
    let (address, path) = rest.split_once('/').unwrap_or((rest, ""));
    Ok((address.to_owned(), format!("/{path}")))
}
