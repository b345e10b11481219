//! The Hub behind proxies, behind certificates, and in front of a cache that may only be read.

mod certificates;
#[cfg(target_os = "linux")]
mod read_only;
mod relay;
mod through_proxies;

use std::ffi::OsString;
use std::path::PathBuf;

use tempfile::TempDir;
use vitrim_hub::{Hub, HubError, Kind, Reference, Settings};
use vitrim_hub_server::Server;

const MODEL: &str = "hf://timm/deit";

/// A Hub with a checkpoint, and an empty cache.
struct World {
    server: Server,
    folder: TempDir,
}

impl World {
    fn new() -> Self {
        let world = World { server: Server::start(), folder: tempfile::tempdir().unwrap() };
        world.push(1);
        world
    }

    /// Pushes a checkpoint whose bytes are `salt`; returns the commit.
    fn push(&self, salt: u8) -> String {
        let files = ["config.json", "model.safetensors"].map(|name| (name.to_owned(), vec![salt; 3000]));
        self.server.push("models/timm/deit", files.into())
    }

    /// The address of the server, as in `127.0.0.1:1234`.
    fn address(&self) -> String {
        self.server.endpoint().strip_prefix("http://").unwrap().to_owned()
    }

    /// Fetches the checkpoint with these variables.
    fn fetch(&self, variables: &[(&str, &str)]) -> Result<PathBuf, HubError> {
        let settings = Settings::from_variables(|name| {
            let given = variables.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value));
            given.or_else(|| (name == "HF_HOME").then(|| self.folder.path().as_os_str().to_owned()))
        })?;
        Hub::new(settings).fetch(&Reference::parse(MODEL, Kind::Model).unwrap(), Kind::Model)
    }

    /// Fetches the checkpoint, which must arrive.
    fn fetched(&self, variables: &[(&str, &str)]) -> PathBuf {
        let folder = self.fetch(variables).unwrap();
        assert_eq!(std::fs::read(folder.join("model.safetensors")).unwrap().len(), 3000);
        folder
    }

    /// Fetches the checkpoint, which must be refused in one line with these words.
    fn refused(&self, variables: &[(&str, &str)], words: &[&str]) {
        let error = self.fetch(variables).unwrap_err().to_string();
        assert!(!error.contains('\n'), "{error}");
        for word in words {
            assert!(error.contains(word), "no `{word}` in {error}");
        }
    }
}
