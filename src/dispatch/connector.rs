//! Connections to a destination: name lookup, TCP and TLS, to the addresses that are allowed and within a time.
//!
//! *Failure.* Each error says at which step it came; none of them means that a byte of a request was sent.

use super::counted_stream::CountedStream;
use super::resolver::Resolver;
use crate::rules::address_policy::AddressPolicy;
use http::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use std::error::Error;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tower_service::Service;

#[derive(Clone, Debug)]
pub struct Connector {
    https: HttpsConnector<HttpConnector<Resolver>>,
    reach: AddressPolicy,
    timeout: Duration,
}

impl Connector {
    /// `timeout` is for lookup, TCP and TLS together: what hangs in one of them is not left behind when its attempt ends.
    pub fn new(tls: Arc<rustls::ClientConfig>, reach: AddressPolicy, timeout: Duration) -> Self {
        let mut tcp = HttpConnector::new_with_resolver(Resolver::new(reach));
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(timeout));
        Self { https: HttpsConnector::from((tcp, tls)), reach, timeout }
    }
}

type BoxError = Box<dyn Error + Send + Sync>;

impl Service<Uri> for Connector {
    type Response = CountedStream<MaybeHttpsStream<TokioIo<TcpStream>>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.https.poll_ready(cx)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        // an address in place of a name never comes to the resolver
        if let Some(refused) = literal(&uri).and_then(|ip| refuse(self.reach, ip).err()) {
            return Box::pin(async move { Err(refused.into()) });
        }
        let (connecting, timeout) = (self.https.call(uri), self.timeout);
        Box::pin(async move {
            let connected = tokio::time::timeout(timeout, connecting).await;
            Ok(CountedStream::new(connected.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??))
        })
    }
}

/// An error where an address may not be connected to.
pub fn refuse(reach: AddressPolicy, ip: IpAddr) -> io::Result<()> {
    match reach.refusal(ip) {
        None => Ok(()),
        Some(kind) => {
            let remedy = "set `allow_link_local = true` if this destination is meant to be there";
            Err(io::Error::new(io::ErrorKind::PermissionDenied, format!("{ip} is {kind}; {remedy}")))
        }
    }
}

fn literal(uri: &Uri) -> Option<IpAddr> {
    uri.host()?.trim_matches(['[', ']']).parse().ok()
}
