//! Connections to a destination: name lookup, TCP and TLS, to allowed addresses and within a timeout.
//!
//! `getaddrinfo` blocks for as long as the system's resolver takes, and cannot be cancelled. On the runtime's thread
//! pool, a name server that does not answer would soon occupy every thread that reads the store. So each destination has
//! its own threads for lookups, at most [`LOOKUPS_MAX`]; further attempts of that destination wait for one until they
//! time out.
//!
//! *Invariant.* The addresses that a name resolves to are checked here, immediately before connecting: a name server
//! that changes its answer between two lookups cannot bypass the check.
//!
//! *Failure.* Each error names the step in which it occurred; no error means that a byte of a request was sent.

use super::counted_stream::CountedStream;
use crate::rules::address_policy::AddressPolicy;
use http::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::dns::Name;
use hyper_util::rt::TokioIo;
use std::error::Error;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, oneshot};
use tower_service::Service;

/// Maximum number of concurrent lookups of one destination; connections are pooled, so few are needed.
const LOOKUPS_MAX: usize = 4;

#[derive(Clone, Debug)]
pub struct Connector {
    https: HttpsConnector<HttpConnector<Resolver>>,
    addresses: AddressPolicy,
    timeout: Duration,
}

impl Connector {
    /// `timeout` is for lookup, TCP and TLS together, so a connection that hangs does not outlive its attempt.
    pub fn new(tls: Arc<rustls::ClientConfig>, addresses: AddressPolicy, timeout: Duration) -> Self {
        let mut tcp = HttpConnector::new_with_resolver(Resolver::new(addresses));
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_connect_timeout(Some(timeout));
        Self { https: HttpsConnector::from((tcp, tls)), addresses, timeout }
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
        // a literal address is not resolved
        if let Some(refused) = literal(&uri).and_then(|ip| refuse(self.addresses, ip).err()) {
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
fn refuse(addresses: AddressPolicy, ip: IpAddr) -> io::Result<()> {
    match addresses.refusal(ip) {
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

#[derive(Clone, Debug)]
struct Resolver {
    lookups: Arc<Semaphore>,
    addresses: AddressPolicy,
}

impl Resolver {
    fn new(addresses: AddressPolicy) -> Self {
        Self { lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)), addresses }
    }

    /// The addresses that may be connected to; an error where none is left.
    fn allowed(self, found: impl Iterator<Item = SocketAddr>) -> io::Result<Addresses> {
        let mut refused = None;
        let mut allowed = Vec::new();
        for address in found {
            match refuse(self.addresses, address.ip()) {
                Ok(()) => allowed.push(address),
                Err(why) => refused = Some(why),
            }
        }
        match refused {
            Some(why) if allowed.is_empty() => Err(why),
            _ => Ok(allowed.into_iter()),
        }
    }
}

type Addresses = std::vec::IntoIter<SocketAddr>;

impl Service<Name> for Resolver {
    type Response = Addresses;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Addresses>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, name: Name) -> Self::Future {
        let (resolver, permits) = (self.clone(), self.lookups.clone());
        Box::pin(async move {
            let permit = permits.acquire_owned().await.map_err(io::Error::other)?;
            let (to, addresses) = oneshot::channel();
            std::thread::Builder::new().name("resolver".to_owned()).spawn(move || {
                let _ = to.send((name.as_str(), 0).to_socket_addrs()); // the attempt may have timed out
                drop(permit);
            })?;
            resolver.allowed(addresses.await.map_err(io::Error::other)??)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_resolve_or_fail_and_no_permit_is_kept() {
        let mut resolver = Resolver::new(AddressPolicy::Guarded);
        for _ in 0..3 * LOOKUPS_MAX {
            let found = resolver.call("localhost".parse().unwrap()).await.unwrap();
            assert!(found.map(|address| address.ip()).all(|ip| ip.is_loopback()));
            assert!(resolver.call("no-such-name.invalid".parse().unwrap()).await.is_err());
        }
    }

    #[tokio::test]
    async fn a_name_that_resolves_to_a_refused_address_is_refused() {
        let resolve = |addresses, name: &str| Resolver::new(addresses).call(name.parse().unwrap());
        // getaddrinfo reads these as addresses; Rust does not, so they are names here
        for name in ["2852039166", "0xa9fea9fe", "169.16689662"] {
            let error = resolve(AddressPolicy::Guarded, name).await.unwrap_err().to_string();
            assert!(
                error.starts_with("169.254.169.254 is a link-local address; set `allow_link_local"),
                "{name}: {error}"
            );
            assert_eq!(resolve(AddressPolicy::Anywhere, name).await.unwrap().count(), 1, "{name}");
        }
        let address = |ip: &str| SocketAddr::new(ip.parse().unwrap(), 0);
        let mixed = [address("10.0.0.1"), address("fe80::1")].into_iter();
        let left: Vec<_> = Resolver::new(AddressPolicy::Guarded).allowed(mixed).unwrap().collect();
        assert_eq!(left, [address("10.0.0.1")]);
    }

    #[tokio::test]
    async fn i19_hanging_lookups_occupy_a_bounded_number_of_threads() {
        let mut resolver = Resolver::new(AddressPolicy::Guarded);
        let hanging: Vec<_> = (0..LOOKUPS_MAX).map(|_| resolver.lookups.clone().try_acquire_owned().unwrap()).collect();
        let mut lookup = resolver.call("localhost".parse().unwrap());
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(lookup.as_mut().poll(&mut context).is_pending());
        drop(hanging);
        assert!(lookup.await.is_ok());
    }
}
