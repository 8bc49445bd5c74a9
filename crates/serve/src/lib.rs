//! Serves models by the Open Inference Protocol (KServe's V2) with Triton's extensions, over HTTP
//! and gRPC: clients of Triton work unchanged.
//!
//! Requests of both protocols become one form (`core`), wait in the queue of their model (`queue`,
//! which has no clock and no thread), and are run by its threads (`model`), several together where
//! the model's configuration lets them (`config`). A queue is bounded, and a request that cannot be
//! done in time is refused when it comes.

mod config;
mod core;
mod dtypes;
mod error;
mod grpc;
mod http;
mod metrics;
mod model;
mod pbtxt;
mod queue;
mod regions;
mod repository;
mod stats;
mod tensors;
mod wire;

use std::future::Future;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::routing::get;
use axum::serve::ListenerExt;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::TcpListenerStream;

use crate::core::Core;
use crate::model::Opening;
use crate::repository::Repository;

/// What a server serves, and where.
#[derive(Clone, Debug)]
pub struct Options {
    /// A folder of models: `MODEL/1/model.onnx`, and `MODEL/config.pbtxt` where it says more.
    pub repository: PathBuf,
    /// The models that are loaded at the start; none: all that are there.
    pub models: Vec<String>,
    /// Whether clients may load and unload models.
    pub control: bool,
    /// The address to listen on.
    pub host: IpAddr,
    /// The port of HTTP; 0: any that is free.
    pub http_port: u16,
    /// The port of gRPC.
    pub grpc_port: u16,
    /// The port of the metrics.
    pub metrics_port: u16,
    /// The device of models whose configuration names none.
    pub device: String,
    /// Host threads of that device; none: one for each core.
    pub threads: Option<usize>,
    /// Bytes of a request at most, also of what it has compressed.
    pub body_max: usize,
    /// Who asks must know this.
    pub token: Option<String>,
    /// How long requests in flight may go on when the server ends.
    pub drain: Duration,
}

impl Default for Options {
    fn default() -> Options {
        Options {
            repository: PathBuf::from("."),
            models: Vec::new(),
            control: true,
            host: Ipv4Addr::LOCALHOST.into(),
            http_port: 8000,
            grpc_port: 8001,
            metrics_port: 8002,
            device: "cpu".into(),
            threads: None,
            body_max: 64 << 20,
            token: None,
            drain: Duration::from_secs(30),
        }
    }
}

/// Why a server does not start, or ended.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say what each field is")]
pub enum ServeError {
    #[error("{}: {error}", path.display())]
    Repository { path: PathBuf, error: std::io::Error },
    #[error("no model in {}: wanted folders such as `MODEL/1/model.onnx`", .0.display())]
    Empty(PathBuf),
    #[error("{address}: {error}")]
    Listen { address: SocketAddr, error: std::io::Error },
    #[error("{0}")]
    Model(String),
    #[error("{0}")]
    Connections(String),
}

/// What has happened on the way up.
#[derive(Debug)]
#[non_exhaustive]
pub enum Moment {
    /// A model is there: its name, and its versions.
    Loaded(String, Vec<String>),
    /// A model could not be loaded, and why; the others are served.
    NotLoaded(String, String),
    /// The server listens: HTTP, gRPC, metrics.
    Listening(SocketAddr, SocketAddr, SocketAddr),
    /// It was told to end, and finishes what is in flight.
    Ending,
}

impl Core {
    fn new(options: Options) -> Core {
        let opening = Opening { device: options.device.clone(), threads: options.threads };
        let repository = Repository::new(&options.repository, opening);
        Core { repository, regions: regions::Regions::default(), options }
    }
}

async fn listen(host: IpAddr, port: u16) -> Result<(TcpListener, SocketAddr), ServeError> {
    let address = SocketAddr::new(host, port);
    let told = |error| ServeError::Listen { address, error };
    let listener = TcpListener::bind(address).await.map_err(told)?;
    let address = listener.local_addr().map_err(told)?;
    Ok((listener, address))
}

/// Loads the models and serves them until `end` is ready; requests in flight are finished then.
/// A model that cannot be loaded is told, and does not keep others from being served.
///
/// # Errors
/// A repository that cannot be read or has no model, a port that is taken, a named model that
/// cannot be loaded.
pub async fn serve(
    options: Options,
    told: impl Fn(Moment),
    end: impl Future<Output = ()>,
) -> Result<(), ServeError> {
    // What cannot be listened on is told before models are loaded, and nobody is answered before.
    let (http, http_at) = listen(options.host, options.http_port).await?;
    let (grpc, grpc_at) = listen(options.host, options.grpc_port).await?;
    let (metrics, metrics_at) = listen(options.host, options.metrics_port).await?;
    let drain = options.drain;
    let core = Arc::new(Core::new(options));
    let loading = tokio::task::spawn_blocking({
        let core = core.clone();
        move || load_all(&core)
    });
    let mut end = std::pin::pin!(end);
    let moments = tokio::select! {
        moments = loading => moments,
        () = &mut end => return Ok(()),
    };
    let moments = moments.map_err(|error| ServeError::Connections(error.to_string()))??;
    moments.into_iter().for_each(&told);
    told(Moment::Listening(http_at, grpc_at, metrics_at));
    let (ending, ended) = watch::channel(());
    let wait = || {
        let mut ended = ended.clone();
        async move { drop(ended.changed().await) }
    };
    // Small answers are sent at once.
    let http = http.tap_io(|stream| drop(stream.set_nodelay(true)));
    let grpc = TcpListenerStream::new(grpc)
        .map(|stream| stream.inspect(|stream| drop(stream.set_nodelay(true))));
    let http = axum::serve(http, http::router(core.clone())).with_graceful_shutdown(wait());
    let metrics = axum::serve(metrics, metrics_router(core.clone())).with_graceful_shutdown(wait());
    let grpc = tonic::transport::Server::builder()
        .add_service(grpc::Service(core.clone()))
        .serve_with_incoming_shutdown(grpc, wait());
    let mut all = tokio::spawn(async move {
        let text = |error: &dyn std::fmt::Display| ServeError::Connections(error.to_string());
        let http = async { http.await.map_err(|error| text(&error)) };
        let metrics = async { metrics.await.map_err(|error| text(&error)) };
        let grpc = async { grpc.await.map_err(|error| text(&error)) };
        tokio::try_join!(http, metrics, grpc).map(drop)
    });
    tokio::select! {
        () = &mut end => {}
        ended = &mut all => {
            return ended.unwrap_or_else(|error| Err(ServeError::Connections(error.to_string())));
        }
    }
    told(Moment::Ending);
    let _ = ending.send(());
    let result = match tokio::time::timeout(drain, all).await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => Err(ServeError::Connections(error.to_string())),
        // Connections that clients keep open are theirs to lose.
        Err(_) => Ok(()),
    };
    let closed = core.clone();
    let _ = tokio::task::spawn_blocking(move || closed.repository.close()).await;
    result
}

/// As [`serve`], until the process is told to end (Ctrl-C, SIGTERM); blocks.
///
/// # Errors
/// As [`serve`].
pub fn run(options: Options, told: impl Fn(Moment)) -> Result<(), ServeError> {
    let text = |error: std::io::Error| ServeError::Connections(error.to_string());
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(text)?;
    runtime.block_on(async {
        use tokio::signal::unix::{SignalKind, signal};
        let mut ends = signal(SignalKind::terminate()).map_err(text)?;
        let end = async move {
            tokio::select! {
                _ = ends.recv() => {}
                _ = tokio::signal::ctrl_c() => {}
            }
        };
        serve(options, told, end).await
    })
}

/// Loads the models that are served from the start.
fn load_all(core: &Core) -> Result<Vec<Moment>, ServeError> {
    let root = core.options.repository.clone();
    let found = core.repository.found();
    let found = found.map_err(|error| ServeError::Repository { path: root.clone(), error })?;
    let named = !core.options.models.is_empty();
    let names = if named { core.options.models.clone() } else { found };
    if names.is_empty() {
        return Err(ServeError::Empty(root));
    }
    let mut moments = Vec::new();
    for name in names {
        moments.push(match core.repository.load(&name, None) {
            Ok(()) => Moment::Loaded(name.clone(), core.repository.versions(&name)),
            Err(refusal) if named => return Err(ServeError::Model(refusal.text)),
            Err(refusal) => Moment::NotLoaded(name, refusal.text),
        });
    }
    Ok(moments)
}

fn metrics_router(core: Arc<Core>) -> Router {
    let text = |State(core): State<Arc<Core>>| async move {
        let kind = "text/plain; version=0.0.4; charset=utf-8";
        ([(header::CONTENT_TYPE, kind)], metrics::text(&core))
    };
    Router::new().route("/metrics", get(text)).with_state(core)
}
