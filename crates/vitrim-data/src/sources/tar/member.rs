//! The members of an archive that hold files: whole, with holes, or as links to other members.

use std::io::{self, Read};

use tar::{Entry, EntryType};
use vitrim_text::shown_bytes;

/// A member that is a file, or a link to one.
#[derive(Debug, PartialEq)]
pub(super) struct FileMember {
    /// Its path in the archive.
    pub(super) name: String,
    pub(super) form: Form,
}

/// How a member is stored.
#[derive(Debug, PartialEq)]
pub(super) enum Form {
    /// In one piece.
    Whole,
    /// Without its holes, in GNU's form.
    Sparse,
    /// Without its holes, in the form of PAX, which vitrim does not read.
    PaxSparse,
    /// As a link to the member of this name.
    Link(String),
}

/// Why a member in the form of PAX cannot be read.
pub(super) const PAX_SPARSE: &str = "stored with holes in the form of PAX; pack the shard without --sparse";

impl FileMember {
    /// The member `entry`; `None` for a folder, a device or a pipe.
    pub(super) fn of<R: Read>(entry: &mut Entry<'_, R>) -> io::Result<Option<Self>> {
        let name = shown_bytes(&entry.path_bytes());
        let target = entry.link_name_bytes().map(|target| shown_bytes(&target)).unwrap_or_default();
        let form = match entry.header().entry_type() {
            EntryType::Regular | EntryType::Continuous => Form::Whole,
            EntryType::GNUSparse => Form::Sparse,
            EntryType::Link => Form::Link(plain("", &target)),
            EntryType::Symlink => Form::Link(plain(&name, &target)),
            _ => return Ok(None),
        };
        let Some(extensions) = entry.pax_extensions()? else { return Ok(Some(Self { name, form })) };
        let mut holes = None;
        for extension in extensions {
            let extension = extension?;
            match extension.key_bytes() {
                b"GNU.sparse.name" => holes = Some(shown_bytes(extension.value_bytes())),
                key if key.starts_with(b"GNU.sparse.") => holes = holes.or_else(|| Some(name.clone())),
                _ => {}
            }
        }
        Ok(Some(match holes {
            Some(name) => Self { name, form: Form::PaxSparse },
            None => Self { name, form },
        }))
    }
}

/// The path in the archive to which the link `from` leads: `to`, relative to the folder of `from`.
fn plain(from: &str, to: &str) -> String {
    let folder = from.rsplit_once('/').map_or("", |(folder, _)| folder);
    let absolute = to.starts_with('/');
    let mut parts = Vec::new();
    for part in folder.split('/').filter(|_| !absolute).chain(to.split('/')) {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let path = parts.join("/");
    if absolute { format!("/{path}") } else { path }
}

/// The path of the member `name` without `./` and the like, as links have it.
pub(super) fn plain_name(name: &str) -> String {
    plain("", name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_links_target_is_relative_to_its_folder() {
        for (from, to, path) in [
            ("a/1.png", "0.png", "a/0.png"),
            ("./a/1.png", "../b/./0.png", "b/0.png"),
            ("1.png", "b/0.png", "b/0.png"),
            ("1.png", "../0.png", "../0.png"),
            ("a/1.png", "/b/0.png", "/b/0.png"),
        ] {
            assert_eq!(plain(from, to), path, "{from} to {to}");
        }
        assert_eq!(plain_name("./a//1.png"), "a/1.png");
    }
}
