//! The servers next to the daemon: one that stores nothing, one that only appends and one that only forwards, to compare
//! with, and destinations that take everything.

use anyhow::Result;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::fs::File;
use std::future::Future;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::oneshot;

/// As long as holdline's own answer, so that both write the same number of bytes.
const BARE_ANSWER: &[u8] = b"{\"status\":\"queued\",\"id\":\"00000000-0000-7000-8000-000000000000\"}";

/// Reads each body and answers with `status` and `text`, once `received` lets it.
pub(crate) async fn serve<F, R>(listener: TcpListener, status: u16, text: &'static [u8], received: F) -> Result<()>
where
    F: Fn(Bytes) -> R + Clone + Send + Sync + 'static,
    R: Future<Output = ()> + Send + 'static,
{
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let received = received.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let received = received.clone();
            async move {
                // a body that breaks off ends the connection: there is nobody to answer
                if let Ok(body) = request.into_body().collect().await {
                    received(body.to_bytes()).await;
                }
                let mut response = Response::new(Full::new(Bytes::from_static(text)));
                *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
                Ok::<_, Infallible>(response)
            }
        });
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service);
        tokio::spawn(async move {
            let _ = connection.await;
        });
    }
}

/// The server that stores nothing.
pub(crate) async fn bare(listen: SocketAddr) -> Result<()> {
    serve(TcpListener::bind(listen).await?, 202, BARE_ANSWER, |_| async {}).await
}

/// The least that a durable server can do: each body is appended to a file, and answered after an `fdatasync` that it
/// shares with all that came meanwhile. No index, no order, no deduplication, and nothing ever goes.
pub(crate) async fn append(listen: SocketAddr, path: &Path) -> Result<()> {
    let (to_disk, bodies) = std::sync::mpsc::channel::<(Bytes, oneshot::Sender<()>)>();
    let mut file = File::create(path)?;
    std::thread::spawn(move || -> std::io::Result<()> {
        while let Ok(first) = bodies.recv() {
            let (bodies, waiting): (Vec<_>, Vec<_>) = std::iter::once(first).chain(bodies.try_iter()).unzip();
            file.write_all(&bodies.concat())?;
            file.sync_data()?;
            for answer in waiting {
                let _ = answer.send(()); // whoever asked may have gone
            }
        }
        Ok(())
    });
    let received = move |body| {
        let (answer, synced) = oneshot::channel();
        let _ = to_disk.send((body, answer));
        async move { synced.await.expect("the disk takes it, or this connection and the measurement end") }
    };
    serve(TcpListener::bind(listen).await?, 202, BARE_ANSWER, received).await
}

/// The least that a deliverer can do: each body is posted to `to`, and answered once that has answered. Nothing is kept.
pub(crate) async fn proxy(listen: SocketAddr, to: http::Uri) -> Result<()> {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    let client = Client::builder(TokioExecutor::new()).build::<_, Full<Bytes>>(connector);
    let received = move |body| {
        let request = http::Request::post(to.clone()).header(http::header::CONTENT_TYPE, "application/json");
        let answer = request.body(Full::new(body)).map(|request| client.request(request));
        async move {
            let answer = answer.expect("the parts are valid").await;
            let answer = answer.expect("the destination takes it, or this connection and the measurement end");
            answer.into_body().collect().await.expect("the destination answers to the end");
        }
    };
    serve(TcpListener::bind(listen).await?, 202, BARE_ANSWER, received).await
}

/// A destination that takes everything at once, and says every second how much it got.
pub(crate) async fn sink(listen: SocketAddr) -> Result<()> {
    let count = Arc::new(AtomicU64::new(0));
    let counted = count.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            println!("{}", serde_json::json!({ "received": counted.load(Ordering::Relaxed) }));
        }
    });
    let received = move |_| {
        count.fetch_add(1, Ordering::Relaxed);
        std::future::ready(())
    };
    serve(TcpListener::bind(listen).await?, 200, b"", received).await
}
