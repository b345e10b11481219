//! Address of the Hub, folder of the cache, and token: `huggingface_hub`'s environment variables.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::client::Network;
use crate::error::{HubError, Result};
use crate::kind::Kind;
use crate::variables::Variables;

const ENDPOINT: &str = "https://huggingface.co";

/// Settings of the Hub and its cache.
#[derive(Clone)]
pub struct Settings {
    /// Address of the Hub, without a slash at the end: `HF_ENDPOINT`.
    pub endpoint: String,
    /// The cache's folder: `HF_HUB_CACHE`, or `HUGGINGFACE_HUB_CACHE`, or `hub` in `HF_HOME`, or
    /// `~/.cache/huggingface/hub`.
    pub cache: PathBuf,
    /// The token: `HF_TOKEN`, or the file that a login wrote to `HF_TOKEN_PATH` or `HF_HOME`.
    pub token: Option<String>,
    /// The variable that forbids requests: `HF_HUB_OFFLINE` or, without it, `TRANSFORMERS_OFFLINE`.
    pub offline: Option<&'static str>,
    /// The variable that forbids requests for data sets: `HF_DATASETS_OFFLINE`.
    pub offline_data: Option<&'static str>,
    /// Proxies and certificates.
    pub network: Network,
}

impl Settings {
    /// Settings from the environment.
    ///
    /// # Errors
    /// [`HubError::NoHome`], [`HubError::Variable`] or [`HubError::Proxy`].
    pub fn from_env() -> Result<Self> {
        Self::read(&Variables { find: &|name| std::env::var_os(name), home: std::env::home_dir() })
    }

    /// Settings from other variables than those of the process; `find` gives a variable's value.
    ///
    /// # Errors
    /// As [`Settings::from_env`].
    pub fn from_variables(find: impl Fn(&str) -> Option<OsString>) -> Result<Self> {
        Self::read(&Variables { find: &find, home: None })
    }

    fn read(variables: &Variables<'_>) -> Result<Self> {
        let home = match variables.path("HF_HOME")? {
            Some(home) => home,
            None => match variables.path("XDG_CACHE_HOME")? {
                Some(cache) => cache.join("huggingface"),
                None => variables.home()?.join(".cache/huggingface"),
            },
        };
        let cache = match variables.path("HF_HUB_CACHE")? {
            Some(cache) => Some(cache),
            None => variables.path("HUGGINGFACE_HUB_CACHE")?,
        };
        let offline = match variables.switch("HF_HUB_OFFLINE")? {
            Some(offline) => offline.then_some("HF_HUB_OFFLINE"),
            None => variables
                .switch("TRANSFORMERS_OFFLINE")?
                .and_then(|offline| offline.then_some("TRANSFORMERS_OFFLINE")),
        };
        let offline_data = variables.switch("HF_DATASETS_OFFLINE")? == Some(true);
        Ok(Settings {
            endpoint: endpoint(variables)?,
            cache: cache.unwrap_or_else(|| home.join("hub")),
            token: token(variables, &home)?,
            offline,
            offline_data: offline_data.then_some("HF_DATASETS_OFFLINE"),
            network: Network::from(variables)?,
        })
    }

    /// The variable that forbids requests for a `kind`.
    pub(crate) fn offline_for(&self, kind: Kind) -> Option<&'static str> {
        self.offline.or(self.offline_data.filter(|_| kind == Kind::Data))
    }
}

/// The Hub's address.
fn endpoint(variables: &Variables<'_>) -> Result<String> {
    let name = "HF_ENDPOINT";
    let given = variables.text(name)?.unwrap_or_else(|| ENDPOINT.to_owned());
    let bare = given.trim_end_matches('/');
    if bare.starts_with("http://") || bare.starts_with("https://") {
        return Ok(bare.to_owned());
    }
    let reason = format!("does not begin with https:// or http://; write https://{bare}");
    Err(HubError::Variable { name, value: given, reason })
}

/// The token, if one is to be sent; `home` has the login's.
fn token(variables: &Variables<'_>, home: &Path) -> Result<Option<String>> {
    if variables.switch("HF_HUB_DISABLE_IMPLICIT_TOKEN")? == Some(true) {
        return Ok(None);
    }
    for name in ["HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"] {
        if let Some(token) = variables.text(name)? {
            return Ok(Some(token));
        }
    }
    let file = variables.path("HF_TOKEN_PATH")?.unwrap_or_else(|| home.join("token"));
    // Without a login there is no file; a Hub that needs the token says so.
    let Ok(text) = std::fs::read_to_string(file) else { return Ok(None) };
    let token = text.trim_start_matches('\u{feff}').trim();
    Ok((!token.is_empty()).then(|| token.to_owned()))
}

/// Prints neither the token nor the proxies, which may have passwords.
impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Settings { endpoint, cache, token, offline, offline_data, network: _ } = self;
        let mut debug = f.debug_struct("Settings");
        debug.field("endpoint", endpoint).field("cache", cache).field("token", &token.is_some());
        debug.field("offline", offline).field("offline_data", offline_data).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings> {
        Settings::from_variables(|name| {
            variables.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value))
        })
    }

    fn settings(variables: &[(&str, &str)]) -> Settings {
        read(variables).unwrap()
    }

    #[test]
    fn variables_mean_what_they_mean_in_python() {
        let plain = settings(&[("HOME", "/home/me")]);
        assert_eq!(plain.cache, Path::new("/home/me/.cache/huggingface/hub"));
        assert_eq!((plain.endpoint.as_str(), plain.token.as_deref(), plain.offline), (ENDPOINT, None, None));
        let all = settings(&[
            ("HF_HOME", "/hf"),
            ("HF_HUB_CACHE", "/cache"),
            ("HUGGINGFACE_HUB_CACHE", "/older"),
            ("HF_ENDPOINT", "http://127.0.0.1:1/"),
            ("HF_TOKEN", " hf_x\n"),
            ("HF_HUB_OFFLINE", "Yes"),
        ]);
        assert_eq!((all.cache.to_str(), all.endpoint.as_str()), (Some("/cache"), "http://127.0.0.1:1"));
        assert_eq!((all.token.as_deref(), all.offline), (Some("hf_x"), Some("HF_HUB_OFFLINE")));
        assert!(!format!("{all:?}").contains("hf_x"));
        assert!(matches!(read(&[]), Err(HubError::NoHome)));
    }

    #[test]
    fn folders_are_expanded_and_the_older_name_is_read() {
        let home = ("HOME", "/home/me");
        for (variable, expected) in [
            (("HF_HOME", "~/hf"), "/home/me/hf/hub"),
            (("HF_HOME", "$HOME/hf"), "/home/me/hf/hub"),
            (("HF_HUB_CACHE", "${HOME}/hub"), "/home/me/hub"),
            (("HUGGINGFACE_HUB_CACHE", "~/older"), "/home/me/older"),
            (("XDG_CACHE_HOME", "~/cache"), "/home/me/cache/huggingface/hub"),
        ] {
            assert_eq!(settings(&[home, variable]).cache, Path::new(expected), "{variable:?}");
        }
        let error = read(&[home, ("HF_HUB_CACHE", "$SCRATCH/hub")]).unwrap_err().to_string();
        assert!(error.starts_with("HF_HUB_CACHE=$SCRATCH/hub: $SCRATCH is not set"), "{error}");
    }

    #[test]
    fn transformers_and_datasets_have_offline_variables_too() {
        let home = ("HF_HOME", "/hf");
        for (variables, model, data) in [
            (&[("HF_HUB_OFFLINE", "0")][..], None, None),
            (&[("TRANSFORMERS_OFFLINE", "1")], Some("TRANSFORMERS_OFFLINE"), Some("TRANSFORMERS_OFFLINE")),
            // As in `huggingface_hub`: the older one counts only without the newer one.
            (&[("TRANSFORMERS_OFFLINE", "1"), ("HF_HUB_OFFLINE", "0")], None, None),
            (
                &[("TRANSFORMERS_OFFLINE", "1"), ("HF_HUB_OFFLINE", "")],
                Some("TRANSFORMERS_OFFLINE"),
                Some("TRANSFORMERS_OFFLINE"),
            ),
            (&[("HF_DATASETS_OFFLINE", "ON")], None, Some("HF_DATASETS_OFFLINE")),
            (&[("HF_DATASETS_OFFLINE", "no")], None, None),
        ] {
            let settings = settings(&[&[home], variables].concat());
            let found = (settings.offline_for(Kind::Model), settings.offline_for(Kind::Data));
            assert_eq!(found, (model, data), "{variables:?}");
        }
    }

    #[test]
    fn an_endpoint_without_a_scheme_is_refused() {
        let error = read(&[("HF_HOME", "/hf"), ("HF_ENDPOINT", "hf.corp/")]).unwrap_err().to_string();
        assert!(error.starts_with("HF_ENDPOINT=hf.corp/: ") && error.contains("https://hf.corp"), "{error}");
    }

    #[test]
    fn a_logins_token_is_found() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().to_str().unwrap();
        std::fs::write(home.path().join("token"), "\u{feff}hf_login\n").unwrap();
        assert_eq!(settings(&[("HF_HOME", path)]).token.as_deref(), Some("hf_login"));
        // The cache may be in another folder.
        let apart = settings(&[("HF_HOME", path), ("HF_HUB_CACHE", "/cache")]);
        assert_eq!(apart.token.as_deref(), Some("hf_login"));
        assert_eq!(settings(&[("HF_HOME", path), ("HF_TOKEN", "hf_mine")]).token.as_deref(), Some("hf_mine"));
        let older = settings(&[("HF_HOME", path), ("HUGGING_FACE_HUB_TOKEN", "hf_older")]);
        assert_eq!(older.token.as_deref(), Some("hf_older"));
        let at = settings(&[("HF_HOME", "/nowhere"), ("HOME", path), ("HF_TOKEN_PATH", "~/token")]);
        assert_eq!(at.token.as_deref(), Some("hf_login"));
        let silent = settings(&[("HF_HOME", path), ("HF_HUB_DISABLE_IMPLICIT_TOKEN", "1")]);
        assert_eq!(silent.token, None);
    }
}
