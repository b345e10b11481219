//! Environment variables as users set them: `~` and `$NAME` in paths are expanded, as Python's `huggingface_hub` does,
//! because `.env` files, Docker's `ENV` and `/etc/environment` hold them as they were written.

use std::ffi::OsString;
use std::path::{Path, PathBuf, is_separator};

use crate::error::{HubError, Result};

/// How often the value of a variable may name another one.
const DEEPEST: usize = 8;

/// The variables of a process.
pub(crate) struct Variables<'a> {
    /// The value of a variable.
    pub find: &'a dyn Fn(&str) -> Option<OsString>,
    /// The user's home folder if `HOME` does not say it.
    pub home: Option<PathBuf>,
}

impl Variables<'_> {
    /// The value of `name` without blanks and quotes around it (`docker --env-file` keeps quotes); `None` if it is not
    /// set or empty.
    ///
    /// # Errors
    /// If it is not UTF-8.
    pub(crate) fn text(&self, name: &'static str) -> Result<Option<String>> {
        let Some(value) = (self.find)(name) else { return Ok(None) };
        let value = value.into_string().map_err(|value| HubError::Variable {
            name,
            value: value.to_string_lossy().into_owned(),
            reason: "is not UTF-8; write it anew".to_owned(),
        })?;
        let bare = bare(&value);
        Ok((!bare.is_empty()).then(|| bare.to_owned()))
    }

    /// The path in `name`, with `~`, `~user`, `$NAME` and `${NAME}` expanded; `None` if it is not set or empty. A path
    /// that is not UTF-8 is taken as it is.
    ///
    /// # Errors
    /// If a variable or a user in it does not exist, unless the path does.
    pub(crate) fn path(&self, name: &'static str) -> Result<Option<PathBuf>> {
        let Some(value) = (self.find)(name) else { return Ok(None) };
        let value = match value.into_string() {
            Ok(value) => value,
            Err(bytes) => return Ok(Some(PathBuf::from(bytes))),
        };
        let value = bare(&value);
        if value.is_empty() {
            return Ok(None);
        }
        self.expand(name, value).map(Some)
    }

    /// Whether `name` is 1, true, yes or on; `None` if it is not set or empty.
    ///
    /// # Errors
    /// If it is not UTF-8.
    pub(crate) fn switch(&self, name: &'static str) -> Result<Option<bool>> {
        let value = self.text(name)?;
        Ok(value.map(|value| matches!(value.to_lowercase().as_str(), "1" | "true" | "yes" | "on")))
    }

    /// The user's home folder.
    ///
    /// # Errors
    /// [`HubError::NoHome`].
    pub(crate) fn home(&self) -> Result<PathBuf> {
        let set = ["HOME", "USERPROFILE"].into_iter().filter_map(|name| (self.find)(name));
        let mut set = set.filter(|value| !value.is_empty());
        set.next().map(PathBuf::from).or_else(|| self.home.clone()).ok_or(HubError::NoHome)
    }

    /// `value` of the variable `name` as a path.
    fn expand(&self, name: &'static str, value: &str) -> Result<PathBuf> {
        let refused = |reason: String| HubError::Variable { name, value: value.to_owned(), reason };
        let mut text = value.to_owned();
        let mut passes = 0..DEEPEST;
        let unknown = loop {
            let (next, unknown) = self.substituted(&text);
            if next == text {
                break unknown;
            }
            if passes.next().is_none() {
                return Err(refused("names itself; write the folder out".to_owned()));
            }
            text = next;
        };
        // A folder's name may have a `$`.
        if let Some(unknown) = unknown.filter(|_| !Path::new(&text).exists()) {
            return Err(refused(format!("{unknown} is not set; write the folder out")));
        }
        let Some(rest) = text.strip_prefix('~') else { return Ok(PathBuf::from(text)) };
        let (user, below) = rest.split_at(rest.find(is_separator).unwrap_or(rest.len()));
        let home = match user {
            "" => self.home()?,
            user => match home_of(user) {
                Some(home) => home,
                None if Path::new(&text).exists() => return Ok(PathBuf::from(text)),
                None => return Err(refused(format!("there is no user `{user}`; write the folder out"))),
            },
        };
        Ok(home.join(below.trim_start_matches(is_separator)))
    }

    /// `text` with each `$NAME` and `${NAME}` replaced by its value, and the first of them that has none.
    fn substituted(&self, text: &str) -> (String, Option<String>) {
        let (mut done, mut rest, mut unknown) = (String::new(), text, None);
        while let Some(at) = rest.find('$') {
            done.push_str(&rest[..at]);
            let after = &rest[at + 1..];
            let (name, length) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
                Some((name, _)) => (name, name.len() + 2),
                None => {
                    let end = after.find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
                    let name = &after[..end.unwrap_or(after.len())];
                    (name, name.len())
                }
            };
            let value = (!name.is_empty()).then(|| (self.find)(name)).flatten();
            match value.and_then(|value| value.into_string().ok()) {
                Some(value) => done.push_str(bare(&value)),
                None => {
                    done.push_str(&rest[at..at + 1 + length]);
                    if !name.is_empty() {
                        unknown.get_or_insert_with(|| format!("${name}"));
                    }
                }
            }
            rest = &after[length..];
        }
        done.push_str(rest);
        (done, unknown)
    }
}

/// `value` without blanks around it, and then without one pair of quotes.
fn bare(value: &str) -> &str {
    let value = value.trim();
    let inner = |quote: char| value.strip_prefix(quote).and_then(|rest| rest.strip_suffix(quote));
    inner('"').or_else(|| inner('\'')).unwrap_or(value)
}

/// The home folder of `user`, from `/etc/passwd` (name:password:uid:gid:comment:home:shell).
fn home_of(user: &str) -> Option<PathBuf> {
    let users = std::fs::read_to_string("/etc/passwd").ok()?;
    let mut fields = users.lines().map(|line| line.split(':').collect::<Vec<_>>());
    let found = fields.find(|fields| fields.first() == Some(&user))?;
    found.get(5).filter(|home| !home.is_empty()).map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(given: &str, others: &[(&str, &str)]) -> Result<Option<PathBuf>> {
        let find = |name: &str| {
            let others = others.iter().find(|(n, _)| *n == name).map(|(_, value)| OsString::from(value));
            if name == "HF_HOME" { Some(OsString::from(given)) } else { others }
        };
        Variables { find: &find, home: Some(PathBuf::from("/login")) }.path("HF_HOME")
    }

    #[test]
    fn paths_are_expanded_as_in_python_and_further() {
        let others =
            [("HOME", "/home/me"), ("USER", "me"), ("BASE", "~/base"), ("DEEP", "$BASE/deep"), ("NONE", "")];
        for (given, expected) in [
            ("/plain", "/plain"),
            ("~", "/home/me"),
            ("~/hf", "/home/me/hf"),
            ("$HOME/hf", "/home/me/hf"),
            ("${HOME}/hf", "/home/me/hf"),
            ("/scratch/$USER/hf", "/scratch/me/hf"),
            ("/scratch/$USER.old/${USER}_x", "/scratch/me.old/me_x"),
            ("$NONE/hf", "/hf"),
            // A variable of the same file, which nobody has expanded either.
            ("$BASE/hub", "/home/me/base/hub"),
            ("$DEEP", "/home/me/base/deep"),
            // `docker --env-file` keeps quotes.
            ("\"~/hf\"", "/home/me/hf"),
            (" '$HOME/a b' ", "/home/me/a b"),
            ("/a~b/c$", "/a~b/c$"),
        ] {
            assert_eq!(path(given, &others).unwrap().as_deref(), Some(Path::new(expected)), "{given}");
        }
        assert_eq!(path(" ", &others).unwrap(), None);
        assert_eq!(path("~/hf", &[]).unwrap().as_deref(), Some(Path::new("/login/hf")));
    }

    #[cfg(unix)]
    #[test]
    fn another_users_home_is_found() {
        let root = std::fs::read_to_string("/etc/passwd").unwrap();
        let root = root
            .lines()
            .find(|line| line.starts_with("root:"))
            .unwrap()
            .split(':')
            .nth(5)
            .unwrap()
            .to_owned();
        assert_eq!(path("~root/hf", &[]).unwrap(), Some(Path::new(&root).join("hf")));
    }

    #[test]
    fn what_is_not_known_is_refused_unless_the_folder_exists() {
        for (given, word) in [
            ("$NOWHERE/hf", "$NOWHERE is not set"),
            ("${CACHE:-/cache}", "$CACHE:-/cache is not set"),
            ("$HF_HOME/hf", "names itself"),
            ("~nobody-of-this-name/hf", "no user `nobody-of-this-name`"),
        ] {
            let error = path(given, &[]).unwrap_err().to_string();
            assert!(error.starts_with(&format!("HF_HOME={given}: ")) && error.contains(word), "{error}");
        }
        let folder = tempfile::tempdir().unwrap();
        let odd = folder.path().join("$odd");
        std::fs::create_dir(&odd).unwrap();
        assert_eq!(path(odd.to_str().unwrap(), &[]).unwrap(), Some(odd));
    }

    #[cfg(unix)]
    #[test]
    fn a_path_that_is_no_text_is_taken_as_it_is() {
        use std::os::unix::ffi::OsStringExt;
        let given = OsString::from_vec(b"/data/\xff".to_vec());
        let find = |_: &str| Some(given.clone());
        let variables = Variables { find: &find, home: None };
        assert_eq!(variables.path("HF_HOME").unwrap(), Some(PathBuf::from(&given)));
        assert!(variables.text("HF_ENDPOINT").unwrap_err().to_string().contains("is not UTF-8"));
    }
}
