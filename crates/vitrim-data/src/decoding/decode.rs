//! Decodes images to 8-bit RGB, with the same result as Pillow's `Image.open(f).convert("RGB")`.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};

use super::truncation::{jpeg_segments, webp_is_whole};
use crate::error::{DataError, one_line};
use crate::limits::{MAX_DECODED_BYTES, MAX_ENCODED_BYTES, MAX_SIDE};

/// The supported formats, detected by content.
pub const FORMATS: [ImageFormat; 7] = [
    ImageFormat::Jpeg,
    ImageFormat::Png,
    ImageFormat::WebP,
    ImageFormat::Bmp,
    ImageFormat::Gif,
    ImageFormat::Tiff,
    ImageFormat::Pnm,
];

/// How images are decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decoding {
    /// Rotate and mirror images according to their EXIF orientation. Off by default, as in torchvision and timm.
    pub exif: bool,
}

impl Decoding {
    /// Reads and decodes one image file.
    ///
    /// # Errors
    ///
    /// [`DataError::NotFound`] or [`DataError::Unreadable`] if the file cannot be read,
    /// [`DataError::BadImage`] if it cannot be decoded.
    pub fn load(self, path: impl AsRef<Path>) -> Result<RgbImage, DataError> {
        let path = path.as_ref();
        self.decode(&read_encoded(path)?, &path.display().to_string())
    }

    /// Decodes one JPEG, PNG, WebP, BMP, GIF, TIFF or PNM (`.ppm`, `.pgm`, `.pbm`) image; `origin` names it in errors.
    ///
    /// The format is detected from the content, not from a file name. Grey, palette and CMYK images become RGB; alpha
    /// is dropped; of 16 bits the high 8 are kept; of several frames or pages the first. The orientation of a TIFF is
    /// always applied, as Pillow does; colour profiles are ignored.
    ///
    /// # Errors
    ///
    /// [`DataError::BadImage`] if the bytes are not such an image, are truncated, or describe an image of more than
    /// [`MAX_SIDE`] pixels per side or [`MAX_DECODED_BYTES`] bytes. A defect of a decoder crate may panic: see
    /// [`guarded`](crate::guarded).
    pub fn decode(self, encoded: &[u8], origin: &str) -> Result<RgbImage, DataError> {
        decode(encoded, self.exif).map_err(|reason| DataError::bad_image(origin, reason))
    }
}

/// The bytes of an image file.
pub(crate) fn read_encoded(path: &Path) -> Result<Vec<u8>, DataError> {
    let too_long = || Err(too_long(path.display().to_string()));
    let file = File::open(path).map_err(|cause| DataError::io(path, cause))?;
    let stored = file.metadata().map_or(0, |metadata| metadata.len());
    if stored > MAX_ENCODED_BYTES {
        return too_long();
    }
    // Capacity for the whole file and one more byte, which shows that the file has grown.
    let mut encoded = Vec::with_capacity(usize::try_from(stored).unwrap_or(0) + 1);
    file.take(MAX_ENCODED_BYTES + 1).read_to_end(&mut encoded).map_err(|cause| DataError::io(path, cause))?;
    if encoded.len() as u64 > MAX_ENCODED_BYTES {
        return too_long();
    }
    Ok(encoded)
}

/// The error for an image file that is too long to be read.
pub(crate) fn too_long(origin: String) -> DataError {
    DataError::bad_image(origin, format!("more than {} MiB as stored", MAX_ENCODED_BYTES >> 20))
}

fn decode(encoded: &[u8], exif: bool) -> Result<RgbImage, String> {
    if encoded.is_empty() {
        return Err("no bytes".into());
    }
    let format = image::guess_format(encoded).ok().filter(|format| FORMATS.contains(format));
    let Some(format) = format else {
        return Err("neither JPEG, PNG, WebP, BMP, GIF, TIFF nor PNM".into());
    };
    let mut coefficient_bytes = 0;
    if format == ImageFormat::Jpeg {
        let segments = jpeg_segments(encoded);
        if !segments.has_end {
            // The decoder would fill the missing part with grey without an error.
            return Err("truncated JPEG".into());
        }
        coefficient_bytes = if segments.progressive { 2 } else { 0 };
    }
    if format == ImageFormat::WebP && !webp_is_whole(encoded) {
        // The decoder would invent the last pixels of a lossy image.
        return Err("truncated WebP".into());
    }
    match decode_within_limits(encoded, format, exif, coefficient_bytes) {
        Ok(decoded) => to_rgb8(decoded, if format == ImageFormat::Pnm { nearest } else { high }),
        Err(image::ImageError::Limits(_)) => {
            Err(format!("larger than {MAX_SIDE} pixels a side or {} MiB in memory", MAX_DECODED_BYTES >> 20))
        }
        Err(error) => Err(one_line(error)),
    }
}

/// Decodes `encoded`; an image that is too large is refused before memory is allocated. `coefficient_bytes` are
/// needed for each value of it during decoding.
fn decode_within_limits(
    encoded: &[u8],
    format: ImageFormat,
    exif: bool,
    coefficient_bytes: u64,
) -> image::ImageResult<DynamicImage> {
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    let mut reader = ImageReader::with_format(Cursor::new(encoded), format);
    reader.limits(limits.clone());
    let mut decoder = reader.into_decoder()?;
    limits.reserve(decoder.total_bytes().saturating_mul(1 + coefficient_bytes))?;
    let upright = match exif || format == ImageFormat::Tiff {
        // Unreadable metadata is no reason to refuse the image.
        true => decoder.orientation().unwrap_or(Orientation::NoTransforms),
        false => Orientation::NoTransforms,
    };
    let mut decoded = DynamicImage::from_decoder(decoder)?;
    decoded.apply_orientation(upright);
    Ok(decoded)
}

/// The high byte of 16 bits.
fn high(wide: u16) -> u8 {
    (wide >> 8) as u8
}

/// 16 bits scaled to 8, as Pillow does for PNM.
fn nearest(wide: u16) -> u8 {
    ((u32::from(wide) + 128) / 257) as u8
}

/// `decoded` with 8 bits a channel; `narrow` takes 16 bits to 8.
fn to_rgb8(decoded: DynamicImage, narrow: fn(u16) -> u8) -> Result<RgbImage, String> {
    let (width, height) = (decoded.width(), decoded.height());
    if width == 0 || height == 0 {
        return Err("no pixels".into());
    }
    let bytes: Vec<u8> = match &decoded {
        DynamicImage::ImageLuma16(wide) => wide.pixels().flat_map(|p| [narrow(p[0]); 3]).collect(),
        DynamicImage::ImageLumaA16(wide) => wide.pixels().flat_map(|p| [narrow(p[0]); 3]).collect(),
        DynamicImage::ImageRgb16(wide) => wide.pixels().flat_map(|p| p.0.map(narrow)).collect(),
        DynamicImage::ImageRgba16(wide) => {
            wide.pixels().flat_map(|p| [p[0], p[1], p[2]].map(narrow)).collect()
        }
        DynamicImage::ImageRgb32F(_) | DynamicImage::ImageRgba32F(_) => {
            return Err("floating-point pixels; save it with 8 or 16 bits a channel".into());
        }
        _ => return Ok(decoded.into_rgb8()),
    };
    RgbImage::from_raw(width, height, bytes).ok_or_else(|| "pixels that do not fill the image".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encoded(image: &DynamicImage, format: ImageFormat) -> Vec<u8> {
        let mut out = Cursor::new(Vec::new());
        image.write_to(&mut out, format).unwrap();
        out.into_inner()
    }

    fn gradient(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| image::Rgb([x as u8 * 3, y as u8 * 5, (x ^ y) as u8]))
    }

    #[test]
    fn grey_alpha_and_16_bit_become_rgb8() {
        let rgb = DynamicImage::ImageRgb8(gradient(9, 7));
        let png = |image: &DynamicImage| decode(&encoded(image, ImageFormat::Png), false).unwrap();
        assert_eq!(png(&rgb), gradient(9, 7));
        assert_eq!(png(&DynamicImage::ImageRgb16(rgb.to_rgb16())), gradient(9, 7));
        let grey = png(&DynamicImage::ImageLuma8(rgb.to_luma8()));
        assert!(grey.pixels().all(|p| p[0] == p[1] && p[1] == p[2]));
        // Alpha is dropped, not composited: hidden colours become visible.
        let mut clear = rgb.to_rgba8();
        clear.pixels_mut().for_each(|p| p[3] = 0);
        assert_eq!(png(&DynamicImage::ImageRgba8(clear)), gradient(9, 7));
    }

    #[test]
    fn a_palette_becomes_rgb8() {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, 2, 1);
        encoder.set_color(png::ColorType::Indexed);
        encoder.set_depth(png::BitDepth::Eight);
        encoder.set_palette(vec![10, 20, 30, 40, 50, 60]);
        encoder.set_trns(vec![255, 0]);
        encoder.write_header().unwrap().write_image_data(&[1, 0]).unwrap();
        assert_eq!(decode(&file, false).unwrap().into_raw(), [40, 50, 60, 10, 20, 30]);
    }

    #[test]
    fn pnm_decodes_as_pillow_does() {
        let decoded = |file: &[u8]| decode(file, false).unwrap().into_raw();
        assert_eq!(decoded(b"P6 2 1 255\n\x01\x02\x03\xff\xfe\xfd"), [1, 2, 3, 255, 254, 253]);
        assert_eq!(decoded(b"P5\n# made by hand\n2 1\n255\n\x07\xf0"), [7, 7, 7, 240, 240, 240]);
        assert_eq!(decoded(b"P3 1 1 15\n0 5 15\n"), [0, 85, 255], "values are scaled to 255");
        assert_eq!(decoded(b"P4 9 1\n\x80\x00")[..6], [0, 0, 0, 255, 255, 255]);
        assert_eq!(decoded(b"P6 1 1 65535\n\x00\xff\x80\x80\xff\xff"), [1, 128, 255]);
        for cut in [&b"P6 2 1 255\n\x01\x02\x03\xff"[..], b"P6 2", b"P5 99999 99999 255\n", b"P6 0 4 255\n"] {
            assert!(decode(cut, false).is_err(), "{cut:?}");
        }
    }

    #[test]
    fn webp_decodes_without_loss() {
        let image = gradient(11, 5);
        let file = encoded(&DynamicImage::ImageRgb8(image.clone()), ImageFormat::WebP);
        assert_eq!(decode(&file, false).unwrap(), image);
    }

    #[test]
    fn what_is_no_image_is_said_to_be_none() {
        let error = Decoding::default().decode(b"hello", "notes.jpg").unwrap_err().to_string();
        assert!(error.contains("neither JPEG, PNG, WebP, BMP, GIF, TIFF nor PNM"), "{error}");
        assert!(Decoding::default().decode(b"", "empty.jpg").is_err());
    }
}
