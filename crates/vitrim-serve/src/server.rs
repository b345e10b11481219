//! The life of a server: it listens, loads its models, serves, and ends.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use vitrim_measure::MeasureError;

use crate::app::{App, Phase};
use crate::decode::Decoder;
use crate::engine::Cores;
use crate::error::{Result, ServeError};
use crate::listen::{self, Connections};
use crate::logging::{self, Log};
use crate::metrics::Metrics;
use crate::repository::Repository;
use crate::scheduler::{Scheduler, Sizes};
use crate::settings::Config;
use crate::tls::Certificate;
use crate::{grpc, rest};

/// How often the recorder of metrics tidies up, and the controllers see the time pass.
const UPKEEP: Duration = Duration::from_secs(1);
/// Most threads for connections; they wait most of the time, and computing has the cores.
const CONNECTION_THREADS: usize = 4;

/// A server that listens.
pub struct Server {
    /// Address of REST.
    pub rest: SocketAddr,
    /// Address of gRPC, if it is served.
    pub grpc: Option<SocketAddr>,
    app: Arc<App>,
    certificate: Option<Arc<Certificate>>,
    listeners: JoinSet<()>,
    end: watch::Sender<bool>,
}

impl Server {
    /// Listens as `config` says. No model is loaded yet: see [`Server::load`].
    ///
    /// # Errors
    /// If a port cannot be listened on, a file for TLS cannot be read, or threads cannot be started.
    pub async fn listen(mut config: Config) -> Result<Self> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let streams = if config.streams == 0 { cores } else { config.streams };
        let certificate = match &config.tls {
            Some((chain, key)) => Some(Certificate::read(chain, key)?),
            None => None,
        };
        let bind = async |port: u16| {
            let address = SocketAddr::new(config.host, port);
            let failed = |source| ServeError::Listen { address: address.to_string(), source };
            let listener = TcpListener::bind(address).await.map_err(failed)?;
            let bound = listener.local_addr()?;
            Ok::<_, ServeError>((listener, bound))
        };
        let rest = bind(config.port).await?;
        let grpc = match config.grpc_port {
            Some(port) => Some(bind(port).await?),
            None => None,
        };
        if !config.host.is_loopback() && config.token.is_none() {
            tracing::warn!(
                "{} is reachable from other machines, and no token is needed: see --token-file",
                config.host
            );
        }
        let metrics = Metrics::default();
        let models = std::mem::take(&mut config.models);
        let of_model = |(name, source): (String, _)| {
            let metrics = metrics.model(&name);
            (name, source, metrics)
        };
        let scheduled = models.iter().map(|(name, _)| metrics.model(name)).collect();
        let target = config.target_p99.map(|target| target.as_secs_f64());
        let sizes = Sizes { queue: config.queue, batch_gmacs: config.batch_gmacs, streams };
        let threads = Cores::start(streams).map_err(of_server)?;
        let scheduler = Arc::new(Scheduler::start(sizes, threads, scheduled)?);
        let decoder = Decoder::start(streams, config.exif, config.max_pixels)?;
        let repository = Repository::new(models.into_iter().map(of_model).collect(), target);
        let app = Arc::new(App::new(config, repository, scheduler, decoder, metrics));
        let connections = Connections {
            permits: Arc::new(Semaphore::new(app.config.connections)),
            header_timeout: app.config.header_timeout,
            open: app.metrics.connections.clone(),
        };
        let acceptor = |protocols: &[&[u8]]| {
            certificate.as_ref().map(|certificate| certificate.acceptor(protocols)).transpose()
        };
        let (end, ended) = watch::channel(false);
        let mut listeners = JoinSet::new();
        let tls = acceptor(&[b"h2", b"http/1.1"])?;
        listeners.spawn(listen::serve(rest.0, tls, rest::router(&app), connections.clone(), ended.clone()));
        let grpc_address = grpc.as_ref().map(|(_, address)| *address);
        if let Some((listener, _)) = grpc {
            let (router, reporter) = grpc::router(&app).map_err(std::io::Error::other)?;
            let tls = acceptor(&[b"h2"])?;
            listeners.spawn(listen::serve(listener, tls, router, connections, ended));
            tokio::spawn(grpc::report(Arc::clone(&app), reporter));
        }
        let (handle, scheduler) = (app.metrics.handle(), Arc::clone(&app.scheduler));
        tokio::spawn(async move {
            let mut interval = tokio::time::interval(UPKEEP);
            loop {
                interval.tick().await;
                handle.run_upkeep();
                scheduler.tick();
            }
        });
        Ok(Server { rest: rest.1, grpc: grpc_address, app, certificate, listeners, end })
    }

    /// The state that connections share.
    pub fn app(&self) -> &Arc<App> {
        &self.app
    }

    /// Loads all models, one after the other; the server answers meanwhile that it is not ready.
    ///
    /// # Errors
    /// If one cannot be loaded.
    pub async fn load(&self) -> Result<()> {
        let app = Arc::clone(&self.app);
        let all = tokio::task::spawn_blocking(move || {
            (0..app.repository.slots().len()).try_for_each(|model| app.load(model))
        });
        all.await.map_err(std::io::Error::other)?
    }

    /// Loads all models and the certificate again. What cannot be loaded serves on as it was; the log says so.
    pub fn reload(&self) -> impl Future<Output = ()> + Send + use<> {
        reload(Arc::clone(&self.app), self.certificate.clone())
    }

    /// Ends: at once no longer ready; for `drain` still taking requests; then closing the ports, and answering what is in
    /// flight for at most `limit`. Whether all was answered.
    pub async fn stop(mut self, drain: Duration, limit: Duration) -> bool {
        self.app.begin(Phase::Draining);
        tracing::info!(seconds = drain.as_secs_f64(), "draining: not ready, and still answering");
        tokio::time::sleep(drain).await;
        self.app.begin(Phase::Ending);
        let (waiting, running) = self.app.scheduler.load();
        tracing::info!(waiting, running, "ending: the ports are closed");
        self.end.send_replace(true);
        let all = async { while self.listeners.join_next().await.is_some() {} };
        let answered = tokio::time::timeout(limit, all).await.is_ok();
        if !answered {
            let (waiting, running) = self.app.scheduler.load();
            tracing::warn!(waiting, running, "connections are still open after {} s", limit.as_secs_f64());
        }
        let scheduler = Arc::clone(&self.app.scheduler);
        // A stream ends after its batch.
        let _ = tokio::task::spawn_blocking(move || scheduler.end()).await;
        tracing::info!("ended");
        answered
    }
}

async fn reload(app: Arc<App>, certificate: Option<Arc<Certificate>>) {
    if let Some(certificate) = &certificate {
        match certificate.reload() {
            Ok(()) => tracing::info!("the certificate was read again"),
            Err(error) => tracing::error!("the certificate is as it was: {error}"),
        }
    }
    let all = tokio::task::spawn_blocking(move || {
        for model in 0..app.repository.slots().len() {
            // `load` logs why.
            let _ = app.load(model);
        }
    });
    if let Err(error) = all.await {
        tracing::error!("a bug in vitrim while models were loaded: {error}");
    }
}

/// An error of starting threads.
fn of_server(error: MeasureError) -> ServeError {
    ServeError::Setting(error.to_string())
}

/// Serves as `config` says until a signal ends it: SIGTERM after the drain, SIGINT without it. SIGHUP loads everything
/// again.
///
/// # Errors
/// If it cannot start, or a model cannot be loaded at the start.
pub fn run(config: Config, log: &Log) -> Result<()> {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(cores.clamp(2, CONNECTION_THREADS))
        .thread_name("vitrim-http")
        .enable_all()
        .build()?;
    let (drain, limit) = (config.drain, config.shutdown);
    let ran = runtime.block_on(async {
        let _log = logging::start(log)?;
        let (mut hangup, mut terminate, mut interrupt) = (
            signal(SignalKind::hangup())?,
            signal(SignalKind::terminate())?,
            signal(SignalKind::interrupt())?,
        );
        let server = Server::listen(config).await?;
        tracing::info!(rest = %server.rest, "listening");
        if let Some(grpc) = server.grpc {
            tracing::info!(%grpc, "listening");
        }
        let begun = Instant::now();
        let drain = {
            let mut loading = std::pin::pin!(server.load());
            let mut loaded = false;
            loop {
                tokio::select! {
                    result = &mut loading, if !loaded => {
                        result?;
                        loaded = true;
                        tracing::info!(seconds = begun.elapsed().as_secs_f64(), "ready");
                    }
                    // Beside this, so that a signal to end is heard meanwhile.
                    _ = hangup.recv(), if loaded => drop(tokio::spawn(server.reload())),
                    _ = terminate.recv() => break drain,
                    _ = interrupt.recv() => break Duration::ZERO,
                }
            }
        };
        let stopping = server.stop(drain, limit);
        tokio::select! {
            _ = stopping => {}
            // Again: at once.
            _ = interrupt.recv() => tracing::warn!("interrupted: what was in flight is lost"),
        }
        Ok(())
    });
    // A model that is still being loaded is not waited for.
    runtime.shutdown_background();
    ran
}
