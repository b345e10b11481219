//! Address of the Hub, folder of the cache, and token: `huggingface_hub`'s environment variables.

use std::path::{Path, PathBuf};

use hf_hub::Cache;

use crate::error::{HubError, Result};

const ENDPOINT: &str = "https://huggingface.co";

/// Settings of the Hub and its cache.
#[derive(Clone)]
pub struct Settings {
    /// Address of the Hub, without a slash at the end: `HF_ENDPOINT`.
    pub endpoint: String,
    /// The cache's folder: `HF_HUB_CACHE`, or `hub` in `HF_HOME`, or `~/.cache/huggingface/hub`.
    pub cache: PathBuf,
    /// The token: `HF_TOKEN`, or the file that a login wrote to `HF_TOKEN_PATH` or `HF_HOME`.
    pub token: Option<String>,
    /// Whether no request may be made: `HF_HUB_OFFLINE` is 1, true, yes or on.
    pub offline: bool,
}

impl Settings {
    /// Settings from the environment. `hf-hub` itself reads only `HF_HOME` and the file of the login.
    ///
    /// # Errors
    /// [`HubError::NoHome`].
    pub fn from_env() -> Result<Self> {
        Self::from(|name| std::env::var(name).ok())
    }

    fn from(variable: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let given = |name: &str| variable(name).map(|v| v.trim().to_owned()).filter(|v| !v.is_empty());
        let home = match (given("HF_HOME"), given("XDG_CACHE_HOME"), given("HOME").or(given("USERPROFILE"))) {
            (Some(home), _, _) => PathBuf::from(home),
            (None, Some(cache), _) => Path::new(&cache).join("huggingface"),
            (None, None, Some(home)) => Path::new(&home).join(".cache/huggingface"),
            (None, None, None) => return Err(HubError::NoHome),
        };
        let token = given("HF_TOKEN").or_else(|| match given("HF_TOKEN_PATH") {
            Some(path) => std::fs::read_to_string(path).ok().map(|token| token.trim().to_owned()),
            None => Cache::new(home.join("hub")).token(),
        });
        let is_true = |value: String| matches!(value.to_lowercase().as_str(), "1" | "true" | "yes" | "on");
        Ok(Settings {
            endpoint: given("HF_ENDPOINT").unwrap_or(ENDPOINT.to_owned()).trim_end_matches('/').to_owned(),
            cache: given("HF_HUB_CACHE").map_or_else(|| home.join("hub"), PathBuf::from),
            token: token.filter(|token| !token.is_empty()),
            offline: given("HF_HUB_OFFLINE").is_some_and(is_true),
        })
    }
}

/// Prints all fields except the token.
impl std::fmt::Debug for Settings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Settings { endpoint, cache, token, offline } = self;
        let mut debug = f.debug_struct("Settings");
        debug.field("endpoint", endpoint).field("cache", cache);
        debug.field("token", &token.is_some()).field("offline", offline).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(variables: &[(&str, &str)]) -> Settings {
        let find = |name: &str| variables.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        Settings::from(find).unwrap()
    }

    #[test]
    fn variables_mean_what_they_mean_in_python() {
        let plain = settings(&[("HOME", "/home/me")]);
        assert_eq!(plain.cache, Path::new("/home/me/.cache/huggingface/hub"));
        assert_eq!((plain.endpoint.as_str(), plain.token.as_deref(), plain.offline), (ENDPOINT, None, false));
        let all = settings(&[
            ("HF_HOME", "/hf"),
            ("HF_HUB_CACHE", "/cache"),
            ("HF_ENDPOINT", "http://127.0.0.1:1/"),
            ("HF_TOKEN", " hf_x\n"),
            ("HF_HUB_OFFLINE", "Yes"),
        ]);
        assert_eq!((all.cache.to_str(), all.endpoint.as_str()), (Some("/cache"), "http://127.0.0.1:1"));
        assert_eq!((all.token.as_deref(), all.offline), (Some("hf_x"), true));
        assert!(!format!("{all:?}").contains("hf_x"));
        assert!(!settings(&[("HF_HOME", "/hf"), ("HF_HUB_OFFLINE", "0")]).offline);
        assert!(matches!(Settings::from(|_| None), Err(HubError::NoHome)));
    }

    #[test]
    fn a_logins_token_is_found() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().to_str().unwrap();
        std::fs::write(home.path().join("token"), "hf_login\n").unwrap();
        assert_eq!(settings(&[("HF_HOME", path)]).token.as_deref(), Some("hf_login"));
        // The cache may be in another folder.
        let apart = settings(&[("HF_HOME", path), ("HF_HUB_CACHE", "/cache")]);
        assert_eq!(apart.token.as_deref(), Some("hf_login"));
        assert_eq!(settings(&[("HF_HOME", path), ("HF_TOKEN", "hf_mine")]).token.as_deref(), Some("hf_mine"));
        let file = home.path().join("token");
        let at = settings(&[("HF_HOME", "/nowhere"), ("HF_TOKEN_PATH", file.to_str().unwrap())]);
        assert_eq!(at.token.as_deref(), Some("hf_login"));
    }
}
