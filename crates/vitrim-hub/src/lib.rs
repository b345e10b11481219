//! `hf://owner/name[@revision][/path]`: what the Hugging Face Hub holds, as a local folder.
//!
//! [`local`] is the way in: it takes whatever a user gave as a model, a policy or a data set. A local path
//! comes back as it is; a [`Reference`] is looked up on the Hub, the files that its [`Kind`] needs are selected, and what
//! the cache lacks is fetched into it.
//!
//! The cache is the one that Python's `huggingface_hub` and the `hf-hub` crate share (`HF_HOME`,
//! `HF_HUB_CACHE`), and so are the token (`HF_TOKEN`, or a login's), `HF_ENDPOINT` and `HF_HUB_OFFLINE`:
//! see [`Settings`]. Paths and listings are `hf-hub`'s; the bytes are fetched here, because its download
//! enters a file into the cache before anybody can check it, and cannot ask for names with spaces.
//!
//! A revision is resolved to a commit first, and all files are taken from that commit, so that a push in
//! between mixes nothing. A branch's name moves on in the cache only once all files of the new commit are
//! there.
//!
//! ```
//! use std::path::Path;
//!
//! let folder = vitrim_hub::local(Path::new("my/deit"), vitrim_hub::Kind::Model)?;
//! assert_eq!(folder, Path::new("my/deit"));
//! # Ok::<(), vitrim_hub::HubError>(())
//! ```

mod cache;
mod error;
mod fetch;
mod kind;
mod observe;
mod reference;
mod remote;
mod select;
mod settings;
mod transfer;

pub use error::{HubError, Result};
pub use fetch::{Hub, local};
pub use kind::Kind;
pub use observe::{DownloadEvent, observe};
pub use reference::{Reference, is_reference};
pub use settings::Settings;
