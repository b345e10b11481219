//! `hf://owner/name[@revision][/path]`: repositories of the Hugging Face Hub as local folders.
//!
//! [`local`] is the entry point: it takes any path that a user gave as a model, a policy or a data set. A local path
//! is returned unchanged. A [`Reference`] is looked up on the Hub, the files that its [`Kind`] needs are selected,
//! and those that the cache lacks are fetched.
//!
//! The cache is the one of Python's `huggingface_hub` (`HF_HOME`, `HF_HUB_CACHE`), and so are the token (`HF_TOKEN`, or
//! that of a login), `HF_ENDPOINT` and `HF_HUB_OFFLINE`: see [`Settings`]. The crate `hf-hub` is not used, because it adds
//! a file to the cache before it can be verified, cannot request names with spaces, and knows neither the system's
//! certificates nor `NO_PROXY`.
//!
//! A revision is first resolved to a commit, and all files are taken from that commit, so that a push during the
//! download cannot mix versions. A branch's name is updated in the cache only when all files of the new commit are
//! present.
//!
//! ```
//! use std::path::Path;
//!
//! let folder = vitrim_hub::local(Path::new("my/deit"), vitrim_hub::Kind::Model)?;
//! assert_eq!(folder, Path::new("my/deit"));
//! # Ok::<(), vitrim_hub::HubError>(())
//! ```

mod cache;
mod client;
mod error;
mod fetch;
mod kind;
mod observe;
mod proxy;
mod reference;
mod remote;
mod select;
mod settings;
mod tls;
mod transfer;
mod trust;
mod variables;

pub use client::Network;
pub use error::{HubError, Result};
pub use fetch::{Hub, local};
pub use kind::Kind;
pub use observe::{DownloadEvent, observe};
pub use reference::{Reference, is_reference};
pub use settings::Settings;
