//! Decoding, in a pool of its own: from an encoded image to the model's crop.

use std::io::Cursor;
use std::sync::Arc;

use bytes::Bytes;
use rayon::{ThreadPool, ThreadPoolBuilder};
use vitrim_data::image::{ImageReader, RgbImage, guess_format};
use vitrim_data::{DataError, Decoding, FORMATS, MAX_DECODED_BYTES, MAX_SIDE, Transform, guarded};

use crate::refusal::Refusal;

/// The threads that decode.
#[derive(Clone)]
pub struct Decoder {
    pool: Arc<ThreadPool>,
    decoding: Decoding,
    max_pixels: u64,
}

impl Decoder {
    /// Starts `threads` threads. Images are turned by their EXIF orientation if `exif`; those of more than `max_pixels`
    /// pixels are refused from their header.
    ///
    /// # Errors
    /// If the threads cannot be started.
    pub fn start(threads: usize, exif: bool, max_pixels: u64) -> std::io::Result<Self> {
        let pool =
            ThreadPoolBuilder::new().num_threads(threads).thread_name(|i| format!("vitrim-decode-{i}"));
        let pool = pool.build().map_err(std::io::Error::other)?;
        Ok(Decoder { pool: Arc::new(pool), decoding: Decoding { exif }, max_pixels })
    }

    /// Runs `work` on one of the threads.
    pub fn spawn(&self, work: impl FnOnce() + Send + 'static) {
        self.pool.spawn(work);
    }

    /// The crop that `transform` makes of the image `encoded`, called `name`.
    ///
    /// # Errors
    /// 415 for what is no image, 413 for too many pixels, 422 for an image that cannot be decoded.
    pub fn crop(&self, encoded: &Bytes, name: &str, transform: &Transform) -> Result<RgbImage, Refusal> {
        self.check(encoded, name)?;
        let crop = || Ok(transform.cropped(&self.decoding.decode(encoded, name)?));
        guarded(|| name.to_owned(), crop).map_err(|error| match error {
            DataError::BadImage { reason, .. } => {
                Refusal::Invalid(format!("{name}: cannot be decoded ({reason}); send it whole, or another"))
            }
            other => Refusal::Invalid(format!("{name}: {other}")),
        })
    }

    /// Checks format and size from the header, before memory for the pixels is allocated.
    fn check(&self, encoded: &[u8], name: &str) -> Result<(), Refusal> {
        let format = guess_format(encoded).ok().filter(|format| FORMATS.contains(format));
        let Some(format) = format else {
            return Err(Refusal::UnsupportedMedia(format!(
                "{name}: neither JPEG, PNG, WebP, BMP, GIF, TIFF nor PNM; send one of these"
            )));
        };
        let size = || Ok(ImageReader::with_format(Cursor::new(encoded), format).into_dimensions().ok());
        // A header that cannot be read is the decoder's to complain about.
        let Ok(Some((width, height))) = guarded(|| name.to_owned(), size) else { return Ok(()) };
        let pixels = u64::from(width) * u64::from(height);
        if pixels > self.max_pixels || width.max(height) > MAX_SIDE || 3 * pixels > MAX_DECODED_BYTES {
            return Err(Refusal::TooLarge(format!(
                "{name}: {width} x {height} pixels, and this server decodes up to {} megapixels, {MAX_SIDE} a side \
                 (--max-megapixels)",
                self.max_pixels / 1_000_000
            )));
        }
        Ok(())
    }
}
