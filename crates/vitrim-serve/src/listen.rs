//! Connections: accepted up to a number, with TLS or without, each with a limit on the time of a request's head.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use metrics::Gauge;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, watch};
use tokio_io_timeout::TimeoutStream;
use tokio_rustls::TlsAcceptor;

use crate::first_bytes::FirstBytes;

/// Pause after an error of accepting, such as too many open files.
const PAUSE: Duration = Duration::from_millis(50);
/// Requests of one HTTP/2 connection at the same time.
const STREAMS: u32 = 256;
/// Longest head of a request, bytes.
const HEAD: usize = 64 << 10;

/// How connections are held.
#[derive(Clone)]
pub struct Connections {
    /// Permits for connections, which listeners may share.
    pub permits: Arc<Semaphore>,
    /// Time for a request's head, for a TLS handshake, for which a connection may be idle, and for which a client may read
    /// nothing of an answer.
    pub header_timeout: Duration,
    /// Connections that are open.
    pub open: Gauge,
}

/// Serves `router` on `listener` until `end` is set; then accepts nothing any more, and ends when the requests in flight
/// are answered.
pub async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    connections: Connections,
    mut end: watch::Receiver<bool>,
) {
    let graceful = GracefulShutdown::new();
    let builder = builder(connections.header_timeout);
    loop {
        let accepted = async {
            let permit = Arc::clone(&connections.permits).acquire_owned().await;
            (listener.accept().await, permit)
        };
        let (accepted, permit) = tokio::select! {
            accepted = accepted => accepted,
            _ = end.wait_for(|end| *end) => break,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        // Answers are small: they are not held back to fill a packet. If it cannot be set, they are only slower.
        let _ = stream.set_nodelay(true);
        let (tls, builder, router, graceful) =
            (tls.clone(), builder.clone(), router.clone(), graceful.watcher());
        let (open, limit) = (connections.open.clone(), connections.header_timeout);
        let mut stream = Box::pin(TimeoutStream::new(stream));
        stream.as_mut().set_write_timeout_pinned(Some(limit));
        tokio::spawn(async move {
            let _permit = permit;
            open.increment(1.0);
            match tls {
                None => connection(&builder, FirstBytes::within(limit, stream), router, graceful).await,
                Some(tls) => {
                    if let Ok(Ok(stream)) = tokio::time::timeout(limit, tls.accept(stream)).await {
                        connection(&builder, FirstBytes::within(limit, stream), router, graceful).await;
                    }
                }
            }
            open.decrement(1.0);
        });
    }
    drop(listener);
    graceful.shutdown().await;
}

async fn connection(
    builder: &Builder<TokioExecutor>,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    graceful: hyper_util::server::graceful::Watcher,
) {
    let serving = builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    if let Err(error) = graceful.watch(serving).await {
        tracing::debug!("connection: {error}");
    }
}

fn builder(header_timeout: Duration) -> Builder<TokioExecutor> {
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(header_timeout).max_buf_size(HEAD);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(header_timeout)
        .keep_alive_timeout(header_timeout)
        .max_concurrent_streams(STREAMS)
        .max_header_list_size(HEAD as u32)
        .adaptive_window(true);
    builder
}
