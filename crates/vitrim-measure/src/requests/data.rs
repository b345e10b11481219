//! How images and their labels are read, and how the backbone is opened.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vitrim_data::{Dataset, Decoding, LabelOrder, OnBadImage};
use vitrim_vit::Precision;

use super::as_text;
use crate::error::Result;
use crate::images::{DataParts, Reading, name};
use crate::model::{Loaded, Opening};
use crate::progress::Listener;

/// The backbone's input size and classes.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(feature = "clap", derive(clap::Args))]
pub struct BackboneArgs {
    /// Input size, pixels: a side, or HEIGHTxWIDTH; position embeddings are resampled as the checkpoint's own library
    /// does [default: the checkpoint's size].
    #[cfg_attr(feature = "clap", arg(long, value_name = "SIZE", value_parser = parse_size))]
    #[serde(serialize_with = "size")]
    pub img_size: Option<[usize; 2]>,
    /// Text embeddings of classes, safetensors or npz, with which an image tower (CLIP, SigLIP) becomes a classifier.
    #[cfg_attr(feature = "clap", arg(long, value_name = "FILE"))]
    #[serde(serialize_with = "as_text::path_option")]
    pub classes: Option<PathBuf>,
}

impl BackboneArgs {
    /// Opens a backbone at this size, with these classes, in `precision`.
    pub fn opening(&self, precision: Precision) -> Opening {
        Opening { precision, img_size: self.img_size, classes: self.classes.clone() }
    }
}

fn size<S: serde::Serializer>(size: &Option<[usize; 2]>, serializer: S) -> Result<S::Ok, S::Error> {
    size.map(|[height, width]| format!("{height}x{width}")).serialize(serializer)
}

#[cfg(feature = "clap")]
fn parse_size(text: &str) -> Result<[usize; 2], String> {
    let side =
        |text: &str| text.parse::<usize>().map_err(|_| "give a side in pixels, or HEIGHTxWIDTH".to_owned());
    match text.split_once('x') {
        None => side(text).map(|side| [side; 2]),
        Some((height, width)) => Ok([side(height)?, side(width)?]),
    }
}

/// How images are read.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(feature = "clap", derive(clap::Args))]
pub struct ImageArgs {
    /// What to do with an image that cannot be decoded: fail, or skip.
    #[cfg_attr(feature = "clap", arg(long, default_value = "fail", value_parser = bad_image_parser()))]
    #[serde(serialize_with = "bad_image")]
    pub on_bad_image: OnBadImage,
    /// Turn images as their EXIF orientation says; timm and torchvision do not.
    #[cfg_attr(feature = "clap", arg(long))]
    pub exif: bool,
}

impl ImageArgs {
    /// The decoding of the images.
    pub fn decoding(&self) -> Decoding {
        Decoding { exif: self.exif }
    }

    /// The data set at `path`, with its own labels.
    ///
    /// # Errors
    /// As [`DataParts::of`].
    pub fn open(&self, path: &Path) -> Result<DataParts> {
        Ok(DataParts::of(path)?.read_as(Reading::plain(self.decoding())))
    }
}

fn bad_image<S: serde::Serializer>(what: &OnBadImage, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(match what {
        OnBadImage::Fail => "fail",
        OnBadImage::Skip => "skip",
    })
}

#[cfg(feature = "clap")]
fn bad_image_parser() -> impl clap::builder::TypedValueParser<Value = OnBadImage> {
    use clap::builder::TypedValueParser;
    clap::builder::PossibleValuesParser::new(["fail", "skip"])
        .map(|word| if word == "skip" { OnBadImage::Skip } else { OnBadImage::Fail })
}

/// How the images and the labels of a data set are read for a backbone.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[cfg_attr(feature = "clap", derive(clap::Args))]
pub struct DatasetArgs {
    /// How images are read.
    #[cfg_attr(feature = "clap", command(flatten))]
    #[serde(flatten)]
    pub images: ImageArgs,
    /// Which of the backbone's classes each class of the data set is: JSON, CSV, or its class names, one a line
    /// [default: by name where the backbone's names or ImageNet's synsets are known, else by number or in order].
    #[cfg_attr(feature = "clap", arg(long, value_name = "FILE"))]
    #[serde(serialize_with = "as_text::path_option")]
    pub label_map: Option<PathBuf>,
    /// How class names that the backbone does not know are its classes: own (the data set's order; of folders, that of
    /// their names as text), number (the order of the numbers in the names), or index (the number is the class, from 0).
    #[cfg_attr(feature = "clap", arg(long, value_name = "ORDER", conflicts_with = "label_map"))]
    #[serde(serialize_with = "as_text::display_option")]
    pub label_order: Option<LabelOrder>,
}

impl DatasetArgs {
    /// The data set at `path`, whose labels are the classes of `loaded`.
    ///
    /// # Errors
    /// As [`DataParts::of`] and [`Reading::for_backbone`].
    pub fn open(&self, path: &Path, loaded: &Loaded) -> Result<DataParts> {
        let (decoding, map) = (self.images.decoding(), self.label_map.as_deref());
        let reading = Reading::for_backbone(decoding, map, self.label_order, loaded)?;
        Ok(DataParts::of(path)?.read_as(reading))
    }
}

/// What was guessed or left out when parts of a data set were opened, each note once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct DataNotes {
    /// What was guessed of the labels; see [`Dataset::label_notes`].
    pub label_notes: Vec<String>,
    /// Which layout was read, and what lies beside the images; see [`Dataset::layout_notes`].
    pub layout_notes: Vec<String>,
}

impl DataNotes {
    /// The notes of `parts`.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a Dataset> + Clone) -> Self {
        let labels: BTreeSet<String> = parts.clone().into_iter().flat_map(Dataset::label_notes).collect();
        let layouts: BTreeSet<&String> = parts.into_iter().flat_map(Dataset::layout_notes).collect();
        DataNotes {
            label_notes: labels.into_iter().collect(),
            layout_notes: layouts.into_iter().cloned().collect(),
        }
    }
}

/// The images of `parts` that `split` names (the final part, if it is `None`) and their name, checked against the
/// classes of `loaded`.
///
/// # Errors
/// If they cannot be read, or have other classes.
pub fn named_images(
    loaded: &Loaded,
    parts: &DataParts,
    split: Option<&str>,
    listener: &mut Listener<'_>,
) -> Result<(Dataset, String)> {
    let split = split.unwrap_or(name(parts.final_part()));
    let dataset = parts.named(split, &mut listener.steps("hashing images"))?;
    loaded.check_classes(&parts.path(), &dataset)?;
    note_opened([&dataset], listener);
    Ok((dataset, split.to_owned()))
}

/// Reports what was guessed or left out when `parts` of a data set were opened, each note once.
pub fn note_opened<'a>(parts: impl IntoIterator<Item = &'a Dataset> + Clone, listener: &mut Listener<'_>) {
    for note in DataNotes::of(parts.clone()).layout_notes {
        listener.note(&format!("note: {note}"));
    }
    note_labels(parts, listener);
}

/// Reports what was guessed of the labels of `parts` of a data set, each guess once.
pub(super) fn note_labels<'a>(
    parts: impl IntoIterator<Item = &'a Dataset> + Clone,
    listener: &mut Listener<'_>,
) {
    for note in DataNotes::of(parts).label_notes {
        listener.note(&format!("labels: {note}"));
    }
}

/// Reports the decoding rate of `dataset`, the images that were left out, and what was guessed of a stream's labels.
pub fn note_reading(dataset: &Dataset, listener: &mut Listener<'_>) {
    if dataset.is_stream() {
        note_labels([dataset], listener);
    }
    let bad = dataset.bad_images();
    for error in bad.first() {
        listener.note(&format!("left out: {error}"));
    }
    let (count, named) = (bad.count(), bad.first().len());
    if count > named {
        listener.note(&format!("left out: {} images more, {count} in all", count - named));
    }
    let rate = dataset.decode_rate();
    if rate.images > 0 {
        listener.note(&format!(
            "images: {} decoded at {:.0} images/s by {} threads, waited for {:.1} s",
            rate.images, rate.images_per_s, rate.threads, rate.waited_s
        ));
    }
}
