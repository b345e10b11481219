//! Data sets: from a path to batches of normalised pixels.
//!
//! The types follow the data flow. A [`Dataset`] indexes folders of images, lists of files, Hugging Face parquet,
//! WebDataset tar shards, a pipe of them, or [generated images](draw_scene), depending on the path. A [`LabelMap`] or
//! the [`BackboneClasses`] convert its classes to a backbone's. An [`Order`] gives the order of the images. [`Decoding`]
//! decodes JPEG, PNG, WebP, BMP, GIF, TIFF and PNM to RGB like Pillow. A [`Transform`] is timm's evaluation transform. A [`Loader`] decodes
//! on threads ahead of its consumer, and applies an [`Augment`] for training. Images are read on demand: only an
//! index is held in memory. Splits are defined by a hash of the encoded bytes ([`Dataset::by_hash`],
//! [`Dataset::without`]), so that training, calibration and test never share an image.
//!
//! The modules follow the data flow, too: `sources` find and index the files at a path, `labels` convert labels to
//! classes, a `dataset` holds both, a `walk` reads it in an `order`, `decoding` gives RGB, `transform` gives the
//! backbone's input, and the `loader` runs them on threads. `scenes` generates images; `limits` has the limits of
//! what is read.
//!
//! Images of more than [`MAX_SIDE`] pixels per side, [`MAX_DECODED_BYTES`] decoded or [`MAX_ENCODED_BYTES`] stored
//! are refused, from their headers and before memory is allocated. An image that cannot be read or decoded ends the
//! pass, or is left out and reported: see [`OnBadImage`].
//!
//! ```
//! use vitrim_data::{Dataset, Loader, LoaderOptions, Order, Preprocess, Transform};
//! # fn main() -> Result<(), vitrim_data::DataError> {
//! # let mut png = std::io::Cursor::new(Vec::new());
//! # vitrim_data::RgbImage::new(40, 30).write_to(&mut png, vitrim_data::image::ImageFormat::Png).expect("in memory");
//! # let root = std::env::temp_dir().join(format!("vitrim-data-doc-{}", std::process::id()));
//! # std::fs::create_dir_all(root.join("val/cat")).expect("temporary folder");
//! # std::fs::write(root.join("val/cat/a.png"), png.into_inner()).expect("temporary file");
//! let dataset = Dataset::open(&root, Some("validation"))?;
//! let transform = Transform::new(Preprocess::default())?;
//! for batch in Loader::new(&dataset, Order::Sequential, &transform, LoaderOptions::default())? {
//!     let batch = batch?;
//!     println!("{:?} {:?} {:?}", batch.sizes, batch.labels, batch.names);
//! #   assert_eq!((&batch.sizes[..], batch.labels[0]), (&[[224, 224]][..], Some(0)));
//! }
//! # std::fs::remove_dir_all(&root).expect("temporary folder");
//! # Ok(())
//! # }
//! ```

mod dataset;
mod decoding;
mod error;
mod key;
mod labels;
mod limits;
mod loader;
mod order;
mod scenes;
mod sources;
mod transform;
mod walk;

pub use dataset::{ContentHash, ContentSet, Dataset, Excluded, Shares, Subset};
pub use decoding::{BadImages, DecodeRate, Decoding, FORMATS, OnBadImage, guarded, is_guarded};
pub use error::DataError;
pub use image::{self, RgbImage};
pub use key::image_key;
pub use labels::{BackboneClasses, LabelMap, LabelOrder, imagenet_names, imagenet_synsets};
pub use limits::{MAX_DECODED_BYTES, MAX_ENCODED_BYTES, MAX_SIDE};
pub use loader::{Batch, BatchShare, Loader, LoaderOptions};
pub use order::Order;
pub use scenes::{Bounds, SCENE_CLASSES, SCENE_SIDE, Scene, draw_scene};
pub use sources::{known_split, list_images};
pub use transform::{Augment, Corruption, CropMode, CropStart, Interpolation, Naflex, Preprocess, Transform};
