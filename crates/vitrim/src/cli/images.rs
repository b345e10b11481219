//! Flags of every command that reads images, and what is said of the reading.

use std::path::{Path, PathBuf};

use clap::ValueEnum;
use vitrim_data::{Dataset, Decoding, OnBadImage};
use vitrim_measure::Loaded;
use vitrim_measure::images::DataParts;
use vitrim_measure::images::Reading;

use super::App;

/// What a corrupt image does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum BadImage {
    /// It ends the command.
    Fail,
    /// It is left out.
    Skip,
}

/// How images are read.
#[derive(Debug, clap::Args)]
pub struct ImageArgs {
    /// What a corrupt image does.
    #[arg(long, value_enum, default_value = "fail")]
    on_bad_image: BadImage,
    /// Turn images as their EXIF orientation says; timm and torchvision do not.
    #[arg(long)]
    exif: bool,
}

impl ImageArgs {
    pub fn on_bad_image(&self) -> OnBadImage {
        match self.on_bad_image {
            BadImage::Fail => OnBadImage::Fail,
            BadImage::Skip => OnBadImage::Skip,
        }
    }

    pub fn decoding(&self) -> Decoding {
        Decoding { exif: self.exif }
    }

    /// The data set at `path`, with its own labels.
    pub fn open(&self, path: &Path) -> anyhow::Result<DataParts> {
        Ok(DataParts::of(path)?.read_as(Reading::plain(self.decoding())))
    }

    /// These flags as they were given, to be repeated.
    fn given(&self) -> String {
        let mut flags = String::new();
        if self.on_bad_image == BadImage::Skip {
            flags += " --on-bad-image skip";
        }
        if self.exif {
            flags += " --exif";
        }
        flags
    }
}

/// How the images and the labels of a data set are read for a backbone.
#[derive(Debug, clap::Args)]
pub struct DatasetArgs {
    #[command(flatten)]
    pub images: ImageArgs,
    /// Which of the backbone's classes each class of the data set is: JSON, CSV, or its class names, one a line
    /// [default: by name where the backbone's names or ImageNet's synsets are known, else in order].
    #[arg(long, value_name = "FILE")]
    label_map: Option<PathBuf>,
}

impl DatasetArgs {
    /// The data set at `path`, whose labels are the classes of `loaded`.
    pub fn open(&self, path: &Path, loaded: &Loaded) -> anyhow::Result<DataParts> {
        let reading = Reading::for_backbone(self.images.decoding(), self.label_map.as_deref(), loaded)?;
        Ok(DataParts::of(path)?.read_as(reading))
    }

    /// These flags as they were given, to be repeated.
    pub fn given(&self) -> String {
        let map = self.label_map.as_deref().map(|path| format!(" --label-map {}", path.display()));
        self.images.given() + &map.unwrap_or_default()
    }
}

/// Says how fast the images of `dataset` were decoded and which were left out.
pub fn tell(app: &App, dataset: &Dataset) {
    let bad = dataset.bad_images();
    for error in bad.first() {
        app.reporter.note(&format!("left out: {error}"));
    }
    let (count, named) = (bad.count(), bad.first().len());
    if count > named {
        app.reporter.note(&format!("left out: {} images more, {count} in all", count - named));
    }
    let rate = dataset.decode_rate();
    if rate.images > 0 {
        app.reporter.note(&format!(
            "images: {} decoded at {:.0} images/s by {} threads, waited for {:.1} s",
            rate.images, rate.images_per_s, rate.threads, rate.waited_s
        ));
    }
}
