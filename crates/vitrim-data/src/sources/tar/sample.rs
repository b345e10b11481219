//! Samples of a tar shard: consecutive members whose names are the same up to the first dot.
//! Source: the WebDataset format (github.com/webdataset/webdataset).

use std::io;
use std::path::{Component, Path};

use serde_json::Value;

use crate::error::{DataError, one_line};
use crate::labels::label_in;
use crate::sources::folder::{IMAGE_EXTENSIONS, is_ignored};

/// Bytes per block: members start at multiples of it, and empty blocks end the archive.
pub(super) const BLOCK: u64 = 512;

/// The role of a member in its sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// The image; `exact` if the member's extension is exactly that of an image, as in `a.jpg` but not `a.mask.jpg`.
    Image {
        exact: bool,
    },
    /// `.cls`: a class as text.
    Class,
    /// `.json`: an object that may contain a label.
    Json,
    Other,
}

/// A sample whose members are being read; `I` is the place of its image.
#[derive(Debug)]
pub(super) struct Sample<I> {
    pub(super) key: String,
    image: Option<(bool, String, I)>,
    /// The label, from `.cls` or else from `.json`.
    label: Option<(Role, String)>,
}

/// A sample that has an image.
#[derive(Debug, PartialEq)]
pub(super) struct Whole<I> {
    /// The image member's path in the archive.
    pub(super) name: String,
    pub(super) image: I,
    pub(super) label: Option<String>,
}

impl<I> Sample<I> {
    pub(super) fn new(key: String) -> Self {
        Self { key, image: None, label: None }
    }

    /// Sets the place of the image to that of member `name`, unless the sample has a more reliable one.
    pub(super) fn take_image(&mut self, exact: bool, name: &str, image: I) {
        if self.image.as_ref().is_none_or(|(surer, ..)| exact && !surer) {
            self.image = Some((exact, name.to_string(), image));
        }
    }

    /// Sets the label to that in `text`, if there is one and the sample has no more reliable one.
    pub(super) fn take_label(&mut self, role: Role, text: &str) {
        let label = match role {
            Role::Json => serde_json::from_str::<Value>(text).ok().as_ref().and_then(label_in),
            _ => Some(text.trim().to_string()),
        };
        let wanted = self.label.as_ref().is_none_or(|(from, _)| *from == Role::Json);
        if let Some(label) = label.filter(|_| wanted) {
            self.label = Some((role, label));
        }
    }

    pub(super) fn whole(self) -> Option<Whole<I>> {
        let (_, name, image) = self.image?;
        Some(Whole { name, image, label: self.label.map(|(_, label)| label) })
    }
}

/// The sample of member `name`, and the member's role in it; `None` for hidden files, which macOS writes next to each
/// file, and for what lies in hidden folders and in those of the system.
pub(super) fn key_and_role(name: &str) -> Option<(String, Role)> {
    let file = name.rfind('/').map_or(0, |slash| slash + 1);
    if Path::new(name)
        .components()
        .any(|part| matches!(part, Component::Normal(part) if is_ignored(Path::new(part))))
    {
        return None;
    }
    let Some(dot) = name[file..].find('.').map(|dot| file + dot) else {
        return Some((name.to_string(), Role::Other));
    };
    let extension = name[dot + 1..].to_lowercase();
    let last = extension.rsplit('.').next().unwrap_or_default();
    let role = match extension.as_str() {
        "cls" => Role::Class,
        "json" => Role::Json,
        exact if IMAGE_EXTENSIONS.contains(&exact) => Role::Image { exact: true },
        _ if IMAGE_EXTENSIONS.contains(&last) => Role::Image { exact: false },
        _ => Role::Other,
    };
    Some((name[..dot].to_string(), role))
}

/// The text of a member that holds a label.
pub(super) fn label_text(bytes: &[u8], origin: impl FnOnce() -> String) -> Result<&str, DataError> {
    vitrim_text::utf8(bytes)
        .map_err(|error| DataError::NotText { origin: origin(), reason: error.to_string() })
}

pub(super) fn damaged(origin: &str, error: io::Error) -> DataError {
    DataError::DamagedTar { origin: origin.to_string(), reason: one_line(error) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_part_at_the_first_dot_of_the_file() {
        let image = |exact| Role::Image { exact };
        for (name, key, role) in [
            ("00001.jpg", "00001", image(true)),
            ("a.b/00001.JPEG", "a.b/00001", image(true)),
            ("n01/x.seg.png", "n01/x", image(false)),
            ("x.cls", "x", Role::Class),
            ("x.json", "x", Role::Json),
            ("x.txt", "x", Role::Other),
            ("README", "README", Role::Other),
        ] {
            assert_eq!(key_and_role(name), Some((key.to_string(), role)), "{name}");
        }
        assert_eq!(key_and_role("./a.png"), Some(("./a".to_string(), image(true))));
        for ignored in ["dir/._x.jpg", ".git/x.png", "__MACOSX/a/x.png", "a/@eaDir/x.png/SYNO.jpg"] {
            assert_eq!(key_and_role(ignored), None, "{ignored}");
        }
    }

    #[test]
    fn the_most_reliable_image_and_label_win() {
        let mut sample = Sample::new("a".into());
        sample.take_label(Role::Json, r#"{"label": 4}"#);
        sample.take_image(false, "a.mask.png", 1);
        sample.take_image(true, "a.jpg", 2);
        sample.take_image(true, "a.png", 3);
        sample.take_label(Role::Class, "7\n");
        sample.take_label(Role::Json, r#"{"label": 5}"#);
        let whole = sample.whole().unwrap();
        assert_eq!(whole, Whole { name: "a.jpg".into(), image: 2, label: Some("7".into()) });
        assert!(Sample::<()>::new("a".into()).whole().is_none());
    }
}
