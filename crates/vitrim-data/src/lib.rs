//! Images in: from a path to batches of normalised pixels.
//!
//! The data flow is the module list. A [`Dataset`] indexes a folder of images or Hugging Face parquet
//! files, or [drawn scenes](draw_scene); an [`Order`] says how to walk it; a [`Transform`] is timm's evaluation transform; a [`Loader`]
//! decodes on threads ahead of its consumer, and changes images by an [`Augment`] where training wants it.
//! Splits are by a hash of the encoded bytes
//! ([`Dataset::by_hash`], [`Dataset::without`]), so that training, calibration and test never share
//! an image.
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

mod augment;
mod bad_images;
mod content;
mod dataset;
mod decode;
mod error;
mod folder;
mod layout;
mod loader;
mod order;
mod parquet;
mod preprocess;
mod processor;
mod scenes;
mod transform;
mod visit;

pub use augment::Augment;
pub use bad_images::{BadImages, OnBadImage};
pub use content::{ContentHash, ContentSet, Part, Shares};
pub use dataset::Dataset;
pub use decode::{MAX_DECODED_BYTES, MAX_SIDE, decode_image, load_image};
pub use error::DataError;
pub use folder::list_images;
pub use image::{self, RgbImage};
pub use loader::{Batch, Loader, LoaderOptions};
pub use order::Order;
pub use preprocess::{CropMode, Interpolation, Preprocess};
pub use scenes::{Bounds, SCENE_CLASSES, SCENE_SIDE, Scene, draw_scene};
pub use transform::Transform;
