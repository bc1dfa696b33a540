//! Names to addresses, at the time of connecting, on threads that belong to one destination.
//!
//! `getaddrinfo` blocks for as long as the system's resolver lets it, and nothing can end it. On the runtime's own pool a
//! name server that does not answer would soon hold every thread that reads the store. Here it holds at most
//! [`LOOKUPS_MAX`] threads of its destination; the other attempts of that destination wait for one until they time out.

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
pub struct Resolver(Arc<Semaphore>);

impl Default for Resolver {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(LOOKUPS_MAX)))
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
        let permits = self.0.clone();
        Box::pin(async move {
            let permit = permits.acquire_owned().await.map_err(io::Error::other)?;
            let (to, addresses) = oneshot::channel();
            std::thread::Builder::new().name("resolver".to_owned()).spawn(move || {
                let _ = to.send((name.as_str(), 0).to_socket_addrs()); // the attempt may have timed out
                drop(permit);
            })?;
            addresses.await.map_err(io::Error::other)?
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn names_resolve_or_fail_and_no_permit_is_kept() {
        let mut resolver = Resolver::default();
        for _ in 0..3 * LOOKUPS_MAX {
            let found = resolver.call("localhost".parse().unwrap()).await.unwrap();
            assert!(found.map(|address| address.ip()).all(|ip| ip.is_loopback()));
            assert!(resolver.call("no-such-name.invalid".parse().unwrap()).await.is_err());
        }
    }

    #[tokio::test]
    async fn i19_lookups_that_hang_hold_a_bounded_number_of_threads() {
        let mut resolver = Resolver::default();
        let hanging: Vec<_> = (0..LOOKUPS_MAX).map(|_| resolver.0.clone().try_acquire_owned().unwrap()).collect();
        let mut lookup = resolver.call("localhost".parse().unwrap());
        let mut context = Context::from_waker(std::task::Waker::noop());
        assert!(lookup.as_mut().poll(&mut context).is_pending());
        drop(hanging);
        assert!(lookup.await.is_ok());
    }
}
