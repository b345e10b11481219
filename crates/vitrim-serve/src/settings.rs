//! The settings of a server, from flags, the environment and a TOML file alike.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Deserializer, de};
use vitrim_measure::model::Opening;
use vitrim_measure::statistics::Confidence;
use vitrim_vit::Precision;

use crate::engine::Source;
use crate::error::{Result, ServeError};
use crate::logging::Log;

/// A length of time, written `50ms`, `2s` or `1m 30s`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span(pub Duration);

impl std::str::FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        humantime::parse_duration(text)
            .map(Span)
            .map_err(|_| format!("{text:?} is not a length of time; write 50ms, 2s or 1m"))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Declares the settings once: each is an optional flag, an environment variable and a key of the TOML file.
macro_rules! settings {
    ($($(#[$meta:meta])* $name:ident: $kind:ty, $flag:literal, $variable:literal;)+) => {
        /// What a user set; everything is optional. Flags and variables win over the file.
        #[derive(Clone, Debug, Default, PartialEq, Deserialize)]
        #[serde(deny_unknown_fields, rename_all = "kebab-case")]
        #[cfg_attr(feature = "clap", derive(clap::Args))]
        pub struct Settings {
            $(
                $(#[$meta])*
                #[serde(default)]
                #[cfg_attr(feature = "clap", arg(long = $flag, env = $variable))]
                pub $name: Option<$kind>,
            )+
            /// A model to serve, NAME=FOLDER or FOLDER (repeatable); hf://owner/name for the Hub. The first is the default.
            #[serde(default)]
            #[cfg_attr(feature = "clap", arg(long = "model", env = "VITRIM_SERVE_MODEL", value_delimiter = ',', value_name = "NAME=FOLDER"))]
            pub model: Vec<String>,
            /// The policy of a model, NAME=FOLDER, or FOLDER if there is one model (repeatable).
            #[serde(default)]
            #[cfg_attr(feature = "clap", arg(long = "policy", env = "VITRIM_SERVE_POLICY", value_delimiter = ',', value_name = "NAME=FOLDER"))]
            pub policy: Vec<String>,
            /// Text embeddings of the classes of an image tower (CLIP, SigLIP), NAME=FILE, or FILE if there is one model
            /// (repeatable).
            #[serde(default)]
            #[cfg_attr(feature = "clap", arg(long = "classes", env = "VITRIM_SERVE_CLASSES", value_delimiter = ',', value_name = "NAME=FILE"))]
            pub classes: Vec<String>,
        }

        impl Settings {
            /// These settings, and those of `below` where these say nothing.
            #[must_use]
            pub fn over(self, below: Settings) -> Settings {
                Settings {
                    $($name: self.$name.or(below.$name),)+
                    model: if self.model.is_empty() { below.model } else { self.model },
                    policy: if self.policy.is_empty() { below.policy } else { self.policy },
                    classes: if self.classes.is_empty() { below.classes } else { self.classes },
                }
            }
        }
    };
}

settings! {
    /// Address to listen on [default: 127.0.0.1, so that only this machine reaches it; 0.0.0.0 for all].
    host: IpAddr, "host", "VITRIM_SERVE_HOST";
    /// Port of REST, 0 for a free one [default: 8000].
    port: u16, "port", "VITRIM_SERVE_PORT";
    /// Port of gRPC, 0 for a free one [default: no gRPC].
    grpc_port: u16, "grpc-port", "VITRIM_SERVE_GRPC_PORT";
    /// Data type of the arithmetic: f32, bf16 or int8 [default: f32].
    dtype: Dtype, "dtype", "VITRIM_SERVE_DTYPE";
    /// Input size, a side in pixels, or HEIGHTxWIDTH [default: the checkpoint's].
    img_size: Size, "img-size", "VITRIM_SERVE_IMG_SIZE";
    /// Largest drop of top-1 that is served, pp; certified by the policy's calibration record.
    max_drop: f64, "max-drop", "VITRIM_SERVE_MAX_DROP";
    /// Largest drift of features that is served, percent (backbones without a classifier).
    max_drift: f64, "max-drift", "VITRIM_SERVE_MAX_DRIFT";
    /// Confidence of the certified losses [default: the record's].
    confidence: Confidence, "confidence", "VITRIM_SERVE_CONFIDENCE";
    /// Latency that 99 of 100 images should stay below, such as 50ms: under load, the server then moves to cheaper operating
    /// points, up to --max-drop, and back.
    target_p99: Span, "target-p99", "VITRIM_SERVE_TARGET_P99";
    /// Images of one model that may wait; a request that would exceed it gets 429 [default: 256].
    queue: usize, "queue", "VITRIM_SERVE_QUEUE";
    /// Expected cost of a batch on one core, 1e9 MACs [default: two dense images].
    batch_gmacs: f64, "batch-gmacs", "VITRIM_SERVE_BATCH_GMACS";
    /// Time after which a request gets 504, if it states none itself [default: 30s].
    timeout: Span, "timeout", "VITRIM_SERVE_TIMEOUT";
    /// Largest body of a request, MiB [default: 32].
    max_body: usize, "max-body", "VITRIM_SERVE_MAX_BODY";
    /// Most MiB of REST bodies that are being received at the same time, at least --max-body; a request that would exceed it
    /// gets 429 [default: 512].
    max_receiving: usize, "max-receiving", "VITRIM_SERVE_MAX_RECEIVING";
    /// Most images of a request [default: 64].
    max_images: usize, "max-images", "VITRIM_SERVE_MAX_IMAGES";
    /// Most pixels of an image, 1e6 [default: 64].
    max_megapixels: u64, "max-megapixels", "VITRIM_SERVE_MAX_MEGAPIXELS";
    /// Time for a request's head, and for which a connection may be idle [default: 30s].
    header_timeout: Span, "header-timeout", "VITRIM_SERVE_HEADER_TIMEOUT";
    /// Time for the body of a REST request [default: 30s].
    body_timeout: Span, "body-timeout", "VITRIM_SERVE_BODY_TIMEOUT";
    /// Most open connections; further ones wait to be accepted [default: 1024].
    connections: usize, "connections", "VITRIM_SERVE_CONNECTIONS";
    /// File with the bearer token that requests must carry [default: none is needed]. VITRIM_SERVE_TOKEN gives the token itself.
    token_file: PathBuf, "token-file", "VITRIM_SERVE_TOKEN_FILE";
    /// Certificate chain for TLS, PEM; read again on SIGHUP.
    tls_cert: PathBuf, "tls-cert", "VITRIM_SERVE_TLS_CERT";
    /// Private key for TLS, PEM.
    tls_key: PathBuf, "tls-key", "VITRIM_SERVE_TLS_KEY";
    /// Time after SIGTERM for which requests are still taken while the server says that it is not ready [default: 5s].
    drain: Span, "drain", "VITRIM_SERVE_DRAIN";
    /// Time for answering what is in flight, after the drain [default: 30s].
    shutdown: Span, "shutdown", "VITRIM_SERVE_SHUTDOWN";
    /// Turn images as their EXIF orientation says.
    #[cfg_attr(feature = "clap", arg(num_args = 0..=1, default_missing_value = "true"))]
    exif: bool, "exif", "VITRIM_SERVE_EXIF";
    /// What is logged, in tracing's syntax: info, debug, vitrim_serve=trace [default: info].
    log: String, "log", "VITRIM_SERVE_LOG";
    /// How it is logged: text or json [default: text].
    log_format: LogFormat, "log-format", "VITRIM_SERVE_LOG_FORMAT";
    /// OpenTelemetry collector that spans of requests are sent to, by OTLP over gRPC, such as http://localhost:4317 (needs a
    /// build with the feature otel).
    otlp_endpoint: String, "otlp-endpoint", "VITRIM_SERVE_OTLP_ENDPOINT";
}

/// A precision, as the command line spells it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dtype(pub Precision);

impl std::str::FromStr for Dtype {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().map(Dtype).map_err(|error| format!("{error}"))
    }
}

impl<'de> Deserialize<'de> for Dtype {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// Height and width, pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Size(pub [usize; 2]);

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let side = |text: &str| {
            text.parse::<usize>().map_err(|_| "give a side in pixels, or HEIGHTxWIDTH".to_owned())
        };
        match text.split_once('x') {
            None => side(text).map(|side| Size([side; 2])),
            Some((height, width)) => Ok(Size([side(height)?, side(width)?])),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// How log lines are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[cfg_attr(feature = "clap", derive(clap::ValueEnum))]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Complete, checked settings.
#[derive(Clone, Debug)]
pub struct Config {
    /// The models with their names.
    pub models: Vec<(String, Source)>,
    /// Address to listen on.
    pub host: IpAddr,
    /// Port of REST.
    pub port: u16,
    /// Port of gRPC, if it is served.
    pub grpc_port: Option<u16>,
    /// Streams that compute; 0 for one per core.
    pub streams: usize,
    /// The latency that 99 of 100 images should stay below.
    pub target_p99: Option<Duration>,
    /// Images of one model that may wait.
    pub queue: usize,
    /// Expected cost of a batch on one stream, 1e9 MACs.
    pub batch_gmacs: Option<f64>,
    /// Time after which a request gets 504.
    pub timeout: Duration,
    /// Largest body of a request, bytes.
    pub max_body: usize,
    /// Most bytes of bodies that are being received at the same time.
    pub max_receiving: usize,
    /// Most images of a request.
    pub max_images: usize,
    /// Most pixels of an image.
    pub max_pixels: u64,
    /// Time for a request's head, and for which a connection may be idle.
    pub header_timeout: Duration,
    /// Time for a request's body.
    pub body_timeout: Duration,
    /// Most open connections.
    pub connections: usize,
    /// The bearer token that requests must carry.
    pub token: Option<String>,
    /// Certificate chain and private key for TLS.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// Time after SIGTERM for which requests are still taken.
    pub drain: Duration,
    /// Time for answering what is in flight, after the drain.
    pub shutdown: Duration,
    /// Whether images are turned by their EXIF orientation.
    pub exif: bool,
}

/// Default of [`Config::port`].
const PORT: u16 = 8000;
/// Most bytes of a file with a token.
const MAX_TOKEN: usize = 4096;

impl Settings {
    /// Reads a TOML file of settings.
    ///
    /// # Errors
    /// If it cannot be read, or has an unknown key or an invalid value.
    pub fn read(path: &Path) -> Result<Self> {
        let bad = |reason: String| ServeError::File { path: path.to_owned(), reason };
        let bytes = std::fs::read(path).map_err(|error| bad(error.to_string()))?;
        let text = vitrim_text::utf8(&bytes).map_err(|error| bad(error.to_string()))?;
        toml::from_str(text).map_err(|error| {
            let message = error.to_string();
            bad(message.split_whitespace().collect::<Vec<_>>().join(" "))
        })
    }

    /// What is logged, and where it goes.
    pub fn log(&self) -> Log {
        Log {
            filter: self.log.clone(),
            format: self.log_format.unwrap_or_default(),
            otlp: self.otlp_endpoint.clone(),
        }
    }

    /// Checks these settings and fills in the defaults. `streams` is the number of streams, 0 for one per core; `token` is
    /// the bearer token, if it was given as such.
    ///
    /// # Errors
    /// If a setting is invalid, or two contradict each other.
    pub fn config(self, streams: usize, token: Option<String>) -> Result<Config> {
        let models = self.models()?;
        let span =
            |span: Option<Span>, default: u64| span.map_or(Duration::from_secs(default), |span| span.0);
        let positive = |value: usize, flag: &str| match value {
            0 => Err(ServeError::Setting(format!("--{flag} 0: give at least 1"))),
            value => Ok(value),
        };
        let queue = positive(self.queue.unwrap_or(256), "queue")?;
        let mib =
            |value: usize, flag: &str| Ok::<_, ServeError>(positive(value, flag)?.saturating_mul(1 << 20));
        let max_body = mib(self.max_body.unwrap_or(32), "max-body")?;
        let tls = match (self.tls_cert, self.tls_key) {
            (None, None) => None,
            (Some(cert), Some(key)) => Some((cert, key)),
            _ => return Err(ServeError::Setting("--tls-cert and --tls-key go together; give both".into())),
        };
        let token = match (token, self.token_file) {
            (Some(_), Some(_)) => {
                let line = "--token-file and VITRIM_SERVE_TOKEN exclude each other; give one of them";
                return Err(ServeError::Setting(line.into()));
            }
            (None, Some(file)) => Some(read_token(&file)?),
            (token, None) => token,
        };
        if token.as_ref().is_some_and(String::is_empty) {
            return Err(ServeError::Setting("the bearer token is empty; give one, or none at all".into()));
        }
        if let Some(budget) = self.batch_gmacs
            && !(budget.is_finite() && budget > 0.0)
        {
            return Err(ServeError::Setting(format!("--batch-gmacs {budget}: give a number above 0")));
        }
        let target = self.target_p99.map(|target| target.0);
        if target.is_some_and(|target| target.is_zero()) {
            return Err(ServeError::Setting("--target-p99 0s: give a length of time above 0".into()));
        }
        Ok(Config {
            models,
            host: self.host.unwrap_or(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)),
            port: self.port.unwrap_or(PORT),
            grpc_port: self.grpc_port,
            streams,
            target_p99: target,
            queue,
            batch_gmacs: self.batch_gmacs,
            timeout: span(self.timeout, 30),
            max_body,
            // Or the largest body would never be received.
            max_receiving: mib(self.max_receiving.unwrap_or(512), "max-receiving")?.max(max_body),
            max_images: positive(self.max_images.unwrap_or(64), "max-images")?.min(queue),
            max_pixels: self.max_megapixels.unwrap_or(64).saturating_mul(1_000_000),
            header_timeout: span(self.header_timeout, 30),
            body_timeout: span(self.body_timeout, 30),
            connections: positive(self.connections.unwrap_or(1024), "connections")?,
            token,
            tls,
            drain: span(self.drain, 5),
            shutdown: span(self.shutdown, 30),
            exif: self.exif.unwrap_or(false),
        })
    }

    /// The models with their names, each with its policy and its classes.
    fn models(&self) -> Result<Vec<(String, Source)>> {
        if self.model.is_empty() {
            return Err(ServeError::Setting(
                "no model; give --model FOLDER, or model = [\"FOLDER\"] in a file".into(),
            ));
        }
        let mut models: Vec<(String, Source)> = Vec::new();
        for given in &self.model {
            let (name, path) = named(given);
            let name = name.map_or_else(|| last_part(path), ToOwned::to_owned);
            if models.iter().any(|(other, _)| *other == name) {
                return Err(ServeError::Setting(format!(
                    "two models are called {name}; give --model NAME={path}"
                )));
            }
            let source = Source {
                model: PathBuf::from(path),
                policy: None,
                opening: Opening {
                    precision: self.dtype.map_or(Precision::F32, |dtype| dtype.0),
                    img_size: self.img_size.map(|size| size.0),
                    classes: None,
                },
                max_drop: self.max_drop,
                max_drift: self.max_drift,
                confidence: self.confidence,
                elastic: self.target_p99.is_some(),
            };
            models.push((name, source));
        }
        for given in &self.policy {
            let (source, path) = source_of(&mut models, "policy", given)?;
            give(&mut source.policy, path, "policy", given)?;
        }
        for given in &self.classes {
            let (source, path) = source_of(&mut models, "classes", given)?;
            give(&mut source.opening.classes, path, "classes", given)?;
        }
        // Settings of the loss are those of models that have a policy.
        for (_, source) in models.iter_mut().filter(|(_, source)| source.policy.is_none()) {
            if self.policy.is_empty() {
                break;
            }
            (source.max_drop, source.max_drift, source.elastic) = (None, None, false);
        }
        Ok(models)
    }
}

/// The model to which `--flag given` belongs, `NAME=PATH` or `PATH`, and the path.
fn source_of<'m, 'g>(
    models: &'m mut [(String, Source)],
    flag: &str,
    given: &'g str,
) -> Result<(&'m mut Source, &'g str)> {
    let (name, path) = named(given);
    let model = match name {
        None if models.len() == 1 => models.first_mut(),
        None => {
            let line = format!("--{flag} {given}: with several models, give NAME={path}");
            return Err(ServeError::Setting(line));
        }
        Some(name) => models.iter_mut().find(|(other, _)| other == name),
    };
    let Some((_, source)) = model else {
        return Err(ServeError::Setting(format!(
            "--{flag} {given}: no model has this name; give it by --model NAME=FOLDER"
        )));
    };
    Ok((source, path))
}

/// Puts `path`, of `--flag given`, into `place`, which has to be empty.
fn give(place: &mut Option<PathBuf>, path: &str, flag: &str, given: &str) -> Result<()> {
    match place.replace(PathBuf::from(path)) {
        None => Ok(()),
        Some(_) => {
            Err(ServeError::Setting(format!("--{flag} {given}: the model has its {flag} already; give one")))
        }
    }
}

/// NAME and FOLDER of `NAME=FOLDER`. A name has letters, digits, `_`, `-` and `.`.
fn named(given: &str) -> (Option<&str>, &str) {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
    match given.split_once('=') {
        Some((name, path)) if !name.is_empty() && name.chars().all(plain) => (Some(name), path),
        _ => (None, given),
    }
}

/// The last part of a path or a reference, without what a name cannot have.
fn last_part(path: &str) -> String {
    let last = path.trim_end_matches('/').rsplit('/').next().unwrap_or(path);
    let last = last.split('@').next().unwrap_or(last);
    let plain = |c: char| if c.is_ascii_alphanumeric() || "_-.".contains(c) { c } else { '-' };
    last.chars().map(plain).collect()
}

fn read_token(path: &Path) -> Result<String> {
    let bad = |reason: String| ServeError::File { path: path.to_owned(), reason };
    let bytes = std::fs::read(path).map_err(|error| bad(error.to_string()))?;
    if bytes.len() > MAX_TOKEN {
        return Err(bad(format!("more than {MAX_TOKEN} bytes, and so no token")));
    }
    let text = vitrim_text::utf8(&bytes).map_err(|error| bad(error.to_string()))?;
    Ok(text.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(toml: &str) -> Settings {
        toml::from_str(toml).unwrap()
    }

    fn refused(settings: Settings, words: &str) {
        let error = settings.config(1, None).unwrap_err().to_string();
        assert!(error.contains(words) && !error.contains('\n'), "{error}");
    }

    #[test]
    fn flags_win_over_the_file_and_defaults_fill_the_rest() {
        let file = settings(
            "model = ['a=/m/a', '/m/b/']\npolicy = ['a=/p/a']\nclasses = ['a=/c/a.npz']\nport = 81\nqueue = 7\ntarget-p99 = '50ms'\nmax-drop = 1.0\n\
             max-images = 99\nmax-body = 600\ndtype = 'bf16'\nimg-size = '32x48'",
        );
        let flags = Settings { port: Some(82), ..Settings::default() };
        let config = flags.over(file).config(3, None).unwrap();
        assert_eq!((config.port, config.queue, config.streams, config.grpc_port), (82, 7, 3, None));
        assert_eq!(config.max_images, 7, "never more than the queue holds");
        assert_eq!(config.max_receiving, 600 << 20, "the largest body fits");
        assert!(config.host.is_loopback(), "nobody else reaches it unless told");
        assert_eq!(config.target_p99, Some(Duration::from_millis(50)));
        let [(a, first), (b, second)] = &config.models[..] else { panic!("two models") };
        assert_eq!((a.as_str(), b.as_str()), ("a", "b"));
        assert_eq!(first.policy.as_deref(), Some(Path::new("/p/a")));
        assert_eq!(first.opening.img_size, Some([32, 48]));
        assert_eq!(first.opening.classes.as_deref(), Some(Path::new("/c/a.npz")));
        assert_eq!(second.opening.classes, None);
        assert!(first.elastic && first.max_drop == Some(1.0));
        assert!(!second.elastic && second.max_drop.is_none(), "a model without a policy is served dense");
    }

    #[test]
    fn models_are_called_by_their_last_part() {
        for (given, name) in [
            ("hf://timm/deit_tiny_patch16_224.fb_in1k", "deit_tiny_patch16_224.fb_in1k"),
            ("hf://owner/name@v2", "name"),
            ("/data/my model/", "my-model"),
            ("x=/a=b", "x"),
            ("/a=b/c", "c"),
        ] {
            let config =
                Settings { model: vec![given.into()], ..Settings::default() }.config(1, None).unwrap();
            assert_eq!(config.models[0].0, name, "{given}");
        }
    }

    #[test]
    fn contradictions_are_named() {
        let one = || Settings { model: vec!["m=/m".into()], ..Settings::default() };
        refused(Settings::default(), "--model");
        refused(Settings { model: vec!["/a/m".into(), "/b/m".into()], ..one() }, "two models are called m");
        refused(Settings { policy: vec!["n=/p".into()], ..one() }, "no model has this name");
        refused(Settings { policy: vec!["/p".into(), "m=/q".into()], ..one() }, "has its policy already");
        refused(Settings { classes: vec!["n=/c".into()], ..one() }, "no model has this name");
        refused(Settings { tls_cert: Some("c".into()), ..one() }, "--tls-key");
        refused(Settings { queue: Some(0), ..one() }, "--queue 0");
        refused(Settings { batch_gmacs: Some(-1.0), ..one() }, "--batch-gmacs");
        refused(Settings { token_file: Some("/no/such/file".into()), ..one() }, "/no/such/file");
        assert!(one().config(1, Some(String::new())).is_err(), "an empty token is none");
        for bad in ["prt = 1", "port = 'x'", "target-p99 = '50'", "img-size = '3y4'", "confidence = 2.0"] {
            assert!(toml::from_str::<Settings>(bad).is_err(), "{bad}");
        }
    }
}
