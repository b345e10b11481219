//! Samples of a tar shard: members whose names are the same up to the first dot. They are neighbours in what
//! WebDataset's tools write, and may lie apart in what `tar` writes.
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

/// Which members of a sample have been met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Parts {
    /// Whether there is an image, and its extension is exactly that of an image.
    image: Option<bool>,
    label: bool,
}

impl Parts {
    /// Whether there is neither an image nor a label.
    pub(super) fn are_none(self) -> bool {
        self.image.is_none() && !self.label
    }

    /// Whether these and `later`, which has the same key and lies apart, are parts of one sample. Samples of
    /// concatenated shards, which may have the same keys, are not.
    pub(super) fn belong_with(self, later: Self) -> bool {
        match (self.image, later.image) {
            (Some(exact), Some(later_exact)) => exact != later_exact,
            (Some(_), None) => later.label,
            (None, Some(_)) => self.label && !later.label,
            (None, None) => false,
        }
    }
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

    /// Adds the members of `later`, which has the same key and lies apart. Gives it back if it is another sample: both
    /// have an image of one name, or images that are equally reliable and as many labels.
    ///
    /// # Errors
    ///
    /// The two labels, if they differ.
    pub(super) fn join(&mut self, later: Self) -> Result<Option<Self>, (String, String)> {
        if let (Some((exact, name, _)), Some((later_exact, later_name, _))) = (&self.image, &later.image) {
            let as_many_labels = self.label.is_some() == later.label.is_some();
            if name == later_name || (exact == later_exact && as_many_labels) {
                return Ok(Some(later));
            }
        }
        match (&self.label, later.label) {
            (Some((role, label)), Some((later_role, later_label)))
                if *role == later_role && *label != later_label =>
            {
                return Err((label.clone(), later_label));
            }
            (None | Some((Role::Json, _)), Some(label)) => self.label = Some(label),
            _ => {}
        }
        if let Some((exact, name, image)) = later.image {
            self.take_image(exact, &name, image);
        }
        Ok(None)
    }

    /// What the sample has.
    pub(super) fn parts(&self) -> Parts {
        Parts { image: self.image.as_ref().map(|(exact, ..)| *exact), label: self.label.is_some() }
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

    /// A sample with the image `name`, if any, at `place`, and the label `label`, if any.
    fn sample(name: &str, place: u32, label: &str) -> Sample<u32> {
        let mut sample = Sample::new("a".into());
        if let Some((_, Role::Image { exact })) = key_and_role(name) {
            sample.take_image(exact, name, place);
        }
        if !label.is_empty() {
            sample.take_label(Role::Class, label);
        }
        sample
    }

    #[test]
    fn members_that_lie_apart_are_joined_and_whole_samples_are_not() {
        let joined = |mut first: Sample<u32>, later| match first.join(later).unwrap() {
            Some(_) => None,
            None => first.whole().map(|whole| (whole.image, whole.label.unwrap_or_default())),
        };
        let as_one = |image, label: &str| Some((image, label.to_string()));
        assert_eq!(joined(sample("a.png", 1, ""), sample("", 0, "7")), as_one(1, "7"));
        assert_eq!(joined(sample("", 0, "7"), sample("a.png", 2, "")), as_one(2, "7"));
        assert_eq!(joined(sample("a.mask.png", 1, ""), sample("a.jpg", 2, "7")), as_one(2, "7"));
        assert_eq!(joined(sample("a.jpg", 1, "7"), sample("a.mask.png", 2, "7")), as_one(1, "7"));
        assert_eq!(joined(sample("a.jpg", 1, "7"), sample("a.jpg", 2, "8")), None, "a later copy");
        assert_eq!(joined(sample("a.jpg", 1, "7"), sample("a.png", 2, "8")), None);
        let two = sample("a.jpg", 1, "7").join(sample("", 0, "8")).unwrap_err();
        assert_eq!(two, ("7".to_string(), "8".to_string()));
        assert!(sample("a.jpg", 1, "7").join(sample("", 0, "7")).unwrap().is_none());

        let apart = |first: &Sample<u32>, later: &Sample<u32>| first.parts().belong_with(later.parts());
        assert!(
            apart(&sample("a.png", 1, ""), &sample("", 0, "7"))
                && apart(&sample("", 0, "7"), &sample("a.png", 1, ""))
        );
        assert!(apart(&sample("a.jpg", 1, "7"), &sample("a.mask.png", 2, "")));
        assert!(!apart(&sample("a.jpg", 1, "7"), &sample("a.jpg", 2, "8")), "the same key in another shard");
        assert!(sample("", 0, "").parts().are_none() && !sample("", 0, "7").parts().are_none());
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
