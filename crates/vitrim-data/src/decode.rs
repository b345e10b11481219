//! Encoded bytes to 8-bit RGB, the way Pillow's `Image.open(f).convert("RGB")` does it.

use std::fs::File;
use std::io::{Cursor, Read};
use std::path::Path;

use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, RgbImage};

use crate::error::{DataError, one_line};

/// The longest side, in pixels, that is decoded.
pub const MAX_SIDE: u32 = 16_384;
/// The most bytes that an image may have once decoded, the coefficients that a progressive JPEG keeps included.
pub const MAX_DECODED_BYTES: u64 = 512 << 20;
/// The most bytes that an image may have as it is stored.
pub const MAX_ENCODED_BYTES: u64 = 256 << 20;

/// The formats that are read, told by content.
const FORMATS: [ImageFormat; 6] = [
    ImageFormat::Jpeg,
    ImageFormat::Png,
    ImageFormat::WebP,
    ImageFormat::Bmp,
    ImageFormat::Gif,
    ImageFormat::Tiff,
];

/// How images are decoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decoding {
    /// Turn and mirror images as their EXIF orientation says. Off by default, as in torchvision and timm.
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

    /// Decodes one JPEG, PNG, WebP, BMP, GIF or TIFF image; `origin` names it in errors.
    ///
    /// The format is told by the content, not by a file name. Grey, palette and CMYK images become RGB, alpha
    /// is dropped, of 16 bits the high 8 are kept, of several frames or pages the first. A TIFF's orientation is
    /// always honoured, since Pillow does so on opening; colour profiles never are.
    ///
    /// # Errors
    ///
    /// [`DataError::BadImage`] if the bytes are no such image, are truncated, or describe an image of more
    /// than [`MAX_SIDE`] pixels a side or [`MAX_DECODED_BYTES`] bytes.
    pub fn decode(self, encoded: &[u8], origin: &str) -> Result<RgbImage, DataError> {
        decode(encoded, self.exif).map_err(|reason| DataError::bad_image(origin, reason))
    }
}

/// [`Decoding::load`] as torchvision loads.
///
/// # Errors
///
/// As [`Decoding::load`].
pub fn load_image(path: impl AsRef<Path>) -> Result<RgbImage, DataError> {
    Decoding::default().load(path)
}

/// [`Decoding::decode`] as torchvision decodes.
///
/// # Errors
///
/// As [`Decoding::decode`].
pub fn decode_image(encoded: &[u8], origin: &str) -> Result<RgbImage, DataError> {
    Decoding::default().decode(encoded, origin)
}

/// The bytes of an image file.
pub(crate) fn read_encoded(path: &Path) -> Result<Vec<u8>, DataError> {
    let mut encoded = Vec::new();
    File::open(path)
        .and_then(|file| {
            // Room in advance for one read; not for what a huge file only claims.
            let expected = file.metadata().map_or(0, |metadata| metadata.len().min(MAX_ENCODED_BYTES));
            encoded.reserve_exact(usize::try_from(expected).unwrap_or(0) + 1);
            file.take(MAX_ENCODED_BYTES + 1).read_to_end(&mut encoded)
        })
        .map_err(|cause| DataError::io(path, cause))?;
    if encoded.len() as u64 > MAX_ENCODED_BYTES {
        return Err(too_long(path.display().to_string()));
    }
    Ok(encoded)
}

/// An image file that is not even read.
pub(crate) fn too_long(origin: String) -> DataError {
    DataError::bad_image(origin, format!("more than {} MiB as stored", MAX_ENCODED_BYTES >> 20))
}

fn decode(encoded: &[u8], exif: bool) -> Result<RgbImage, String> {
    if encoded.is_empty() {
        return Err("no bytes".into());
    }
    let format = image::guess_format(encoded).ok().filter(|format| FORMATS.contains(format));
    let Some(format) = format else {
        return Err("neither JPEG, PNG, WebP, BMP, GIF nor TIFF".into());
    };
    let mut coefficient_bytes = 0;
    if format == ImageFormat::Jpeg {
        let segments = jpeg_segments(encoded);
        if !segments.has_end {
            // The decoder would fill the missing part with grey and say nothing.
            return Err("truncated JPEG".into());
        }
        coefficient_bytes = if segments.progressive { 2 } else { 0 };
    }
    if format == ImageFormat::WebP && !webp_is_whole(encoded) {
        // The decoder would make up the last pixels of a lossy image.
        return Err("truncated WebP".into());
    }
    match decode_within_limits(encoded, format, exif, coefficient_bytes) {
        Ok(decoded) => to_rgb8(decoded),
        Err(image::ImageError::Limits(_)) => {
            Err(format!("larger than {MAX_SIDE} pixels a side or {} MiB in memory", MAX_DECODED_BYTES >> 20))
        }
        Err(error) => Err(one_line(error)),
    }
}

/// The image of `encoded`, refused before anything is allocated if it is too large. `coefficient_bytes` are held for
/// each value of it while it is being decoded.
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
        // What cannot be read of the metadata shall not cost the image.
        true => decoder.orientation().unwrap_or(Orientation::NoTransforms),
        false => Orientation::NoTransforms,
    };
    let mut decoded = DynamicImage::from_decoder(decoder)?;
    decoded.apply_orientation(upright);
    Ok(decoded)
}

fn to_rgb8(decoded: DynamicImage) -> Result<RgbImage, String> {
    let high = |wide: u16| (wide >> 8) as u8;
    let (width, height) = (decoded.width(), decoded.height());
    let bytes: Vec<u8> = match &decoded {
        DynamicImage::ImageLuma16(wide) => wide.pixels().flat_map(|p| [high(p[0]); 3]).collect(),
        DynamicImage::ImageLumaA16(wide) => wide.pixels().flat_map(|p| [high(p[0]); 3]).collect(),
        DynamicImage::ImageRgb16(wide) => wide.pixels().flat_map(|p| p.0.map(high)).collect(),
        DynamicImage::ImageRgba16(wide) => wide.pixels().flat_map(|p| [p[0], p[1], p[2]].map(high)).collect(),
        DynamicImage::ImageRgb32F(_) | DynamicImage::ImageRgba32F(_) => {
            return Err("floating-point pixels; save it with 8 or 16 bits a channel".into());
        }
        _ => return Ok(decoded.into_rgb8()),
    };
    RgbImage::from_raw(width, height, bytes).ok_or_else(|| "pixels that do not fill the image".into())
}

/// Whether there is as much as the RIFF header promises, but for a last byte of padding.
fn webp_is_whole(encoded: &[u8]) -> bool {
    let promised = encoded.get(4..8).and_then(|size| size.try_into().ok()).map(u32::from_le_bytes);
    promised.is_some_and(|promised| encoded.len() as u64 + 1 >= u64::from(promised) + 8)
}

/// What the marker segments of a JPEG say.
struct JpegSegments {
    /// They lead to the end-of-image marker.
    has_end: bool,
    progressive: bool,
}

/// Walks ITU-T T.81 annex B's segments, so that an end marker inside a thumbnail does not count.
fn jpeg_segments(encoded: &[u8]) -> JpegSegments {
    let mut segments = JpegSegments { has_end: false, progressive: false };
    let mut at = 2; // past start-of-image
    loop {
        // Entropy-coded data stuffs every 0xFF with 0x00, so that the next other marker ends it.
        let Some(found) = encoded.get(at..).and_then(|rest| rest.iter().position(|&b| b == 0xff)) else {
            return segments;
        };
        at += found + 1;
        match encoded.get(at) {
            None => return segments,
            Some(0xd9) => return JpegSegments { has_end: true, ..segments },
            // Stuffing, a fill byte, or a marker without a length: restarts, start-of-image, TEM.
            Some(0xff) => {}
            Some(0x00 | 0x01 | 0xd0..=0xd8) => at += 1,
            Some(marker) => {
                segments.progressive |= matches!(marker, 0xc2 | 0xc6 | 0xca | 0xce);
                match encoded.get(at + 1..at + 3) {
                    Some(length) => at += 1 + usize::from(u16::from_be_bytes([length[0], length[1]])),
                    None => return segments,
                }
            }
        }
    }
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
        // Alpha is dropped, not composited: hidden colours come back.
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
    fn webp_decodes_without_loss() {
        let image = gradient(11, 5);
        let file = encoded(&DynamicImage::ImageRgb8(image.clone()), ImageFormat::WebP);
        assert_eq!(decode(&file, false).unwrap(), image);
    }

    #[test]
    fn what_is_no_image_is_said_to_be_none() {
        let error = decode_image(b"hello", "notes.jpg").unwrap_err().to_string();
        assert!(error.contains("neither JPEG, PNG, WebP, BMP, GIF nor TIFF"), "{error}");
        assert!(decode_image(b"", "empty.jpg").is_err());
    }

    #[test]
    fn an_end_inside_a_thumbnail_is_not_the_end() {
        let file = encoded(&DynamicImage::ImageRgb8(gradient(16, 16)), ImageFormat::Jpeg);
        // An APP1 segment that holds a whole JPEG, as cameras write them.
        let mut with_thumbnail = file[..2].to_vec();
        with_thumbnail.extend([0xff, 0xe1]);
        with_thumbnail.extend(((file.len() + 2) as u16).to_be_bytes());
        with_thumbnail.extend(&file);
        with_thumbnail.extend(&file[2..]);
        assert!(jpeg_segments(&with_thumbnail).has_end);
        assert!(!jpeg_segments(&with_thumbnail[..with_thumbnail.len() - 2]).has_end);
    }
}
