//! Names to addresses, at the time of connecting, on threads that belong to one destination.
//!
//! `getaddrinfo` blocks for as long as the system's resolver lets it, and nothing can end it. On the runtime's own pool a
//! name server that does not answer would soon hold every thread that reads the store. Here it holds at most
//! [`LOOKUPS_MAX`] threads of its destination; the other attempts of that destination wait for one until they time out.
//!
//! *Invariant.* What a name resolves to is judged here, on the very addresses that are then connected to: an answer that
//! changes between two lookups opens no door.

use super::connector::refuse;
use crate::rules::address_policy::AddressPolicy;
use hyper_util::client::legacy::connect::dns::Name;
use std::future::Future;
use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::sync::{Semaphore, oneshot};
use tower_service::Service;

/// Lookups of one destination at once; connections are kept, so few are needed.
const LOOKUPS_MAX: usize = 4;

#[derive(Clone, Debug)]
pub struct Resolver {
    lookups: Arc<Semaphore>,
    reach: AddressPolicy,
}

impl Resolver {
    pub fn new(reach: AddressPolicy) -> Self {
        Self { lookups: Arc::new(Semaphore::new(LOOKUPS_MAX)), reach }
    }

    /// The addresses that may be connected to; an error where none is left.
    fn allowed(self, found: impl Iterator<Item = SocketAddr>) -> io::Result<Addresses> {
        let mut refused = None;
        let mut allowed = Vec::new();
        for address in found {
            match refuse(self.reach, address.ip()) {
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
    async fn a_name_cannot_resolve_to_a_refused_address() {
        let resolve = |reach, name: &str| Resolver::new(reach).call(name.parse().unwrap());
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
