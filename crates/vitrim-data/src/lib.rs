//! Images in: from a path to batches of normalised pixels.
//!
//! The data flow is the module list. A [`Dataset`] indexes folders of images, lists of files, Hugging Face
//! parquet, WebDataset tar shards, a pipe of them, or [drawn scenes](draw_scene), whichever lies at a path;
//! a [`LabelMap`] turns its classes into a backbone's; an [`Order`] says how to walk it; [`Decoding`] makes RGB of
//! JPEG, PNG, WebP, BMP, GIF and TIFF as Pillow does; a [`Transform`] is timm's evaluation transform; a [`Loader`]
//! decodes on threads ahead of its consumer, and changes images by an [`Augment`] where training wants it. Images are
//! read when their turn comes: an index is all that is held. Splits are by a hash of the encoded bytes
//! ([`Dataset::by_hash`], [`Dataset::without`]), so that training, calibration and test never share an image.
//!
//! The modules below follow the data: `sources` find and index what lies at a path, `labels` turn what is stated into
//! classes, a `dataset` holds both, a `walk` reads it in an `order`, `decoding` makes pixels of bytes, `transform` what
//! a backbone takes, and the `loader` does so on threads. `scenes` are drawn; `limits` says what is refused.
//!
//! What is refused: images of more than [`MAX_SIDE`] pixels a side, [`MAX_DECODED_BYTES`] decoded or
//! [`MAX_ENCODED_BYTES`] stored, from their headers and before room is made for them. An image that cannot be read or
//! decoded ends the pass or is left out and named, as [`OnBadImage`] says.
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
//!     println!("{:?} {:?} {:?}", batch.shape, batch.labels, batch.names);
//! #   assert_eq!((batch.shape, batch.labels[0]), ([1, 3, 224, 224], Some(0)));
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

pub use dataset::{ContentHash, ContentSet, Dataset, Shares, Subset};
pub use decoding::{BadImages, DecodeRate, Decoding, OnBadImage, guarded, is_guarded};
pub use error::DataError;
pub use image::{self, RgbImage};
pub use key::image_key;
pub use labels::{LabelMap, imagenet_synsets};
pub use limits::{MAX_DECODED_BYTES, MAX_ENCODED_BYTES, MAX_SIDE};
pub use loader::{Batch, Loader, LoaderOptions};
pub use order::Order;
pub use scenes::{Bounds, SCENE_CLASSES, SCENE_SIDE, Scene, draw_scene};
pub use sources::list_images;
pub use transform::{Augment, Corruption, CropMode, Interpolation, Preprocess, Transform};
