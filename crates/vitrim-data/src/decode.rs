//! Encoded bytes to 8-bit RGB, the way Pillow's `Image.open(f).convert("RGB")` does it.

use std::io::Cursor;
use std::path::Path;

use image::{ImageReader, Limits, RgbImage};

use crate::error::{DataError, one_line};

/// The longest side, in pixels, that is decoded.
pub const MAX_SIDE: u32 = 16_384;
/// The most memory, in bytes, that decoding one image may take.
pub const MAX_DECODED_BYTES: u64 = 512 << 20;

/// Reads and decodes one image file.
///
/// # Errors
///
/// [`DataError::NotFound`] or [`DataError::Unreadable`] if the file cannot be read,
/// [`DataError::BadImage`] if it cannot be decoded.
pub fn load_image(path: impl AsRef<Path>) -> Result<RgbImage, DataError> {
    let path = path.as_ref();
    let encoded = std::fs::read(path).map_err(|cause| DataError::io(path, cause))?;
    decode_image(&encoded, &path.display().to_string())
}

/// Decodes one JPEG, PNG or WebP image; `origin` names it in errors.
///
/// The format is told by the content, not by a file name. Grey and palette images become RGB, alpha
/// is dropped, 16 bits become 8. As in timm, EXIF orientation and colour profiles are ignored.
///
/// # Errors
///
/// [`DataError::BadImage`] if the bytes are no such image, are truncated, or describe an image of more
/// than [`MAX_SIDE`] pixels a side or [`MAX_DECODED_BYTES`] bytes.
pub fn decode_image(encoded: &[u8], origin: &str) -> Result<RgbImage, DataError> {
    decode(encoded).map_err(|reason| DataError::bad_image(origin, reason))
}

fn decode(encoded: &[u8]) -> Result<RgbImage, String> {
    if encoded.is_empty() {
        return Err("no bytes".into());
    }
    let mut reader = ImageReader::new(Cursor::new(encoded)).with_guessed_format().map_err(one_line)?;
    let Some(format) = reader.format() else {
        return Err("neither JPEG, PNG nor WebP".into());
    };
    if format == image::ImageFormat::Jpeg && !jpeg_has_end(encoded) {
        // The decoder would fill the missing part with grey and say nothing.
        return Err("truncated JPEG".into());
    }
    let mut limits = Limits::default();
    limits.max_image_width = Some(MAX_SIDE);
    limits.max_image_height = Some(MAX_SIDE);
    limits.max_alloc = Some(MAX_DECODED_BYTES);
    reader.limits(limits);
    match reader.decode() {
        Ok(decoded) => Ok(decoded.into_rgb8()),
        Err(image::ImageError::Limits(_)) => {
            Err(format!("larger than {MAX_SIDE} pixels a side or {} MiB in memory", MAX_DECODED_BYTES >> 20))
        }
        Err(error) => Err(one_line(error)),
    }
}

/// Whether the JPEG's marker segments lead to its end-of-image marker.
///
/// Walks ITU-T T.81 annex B's segments, so that an end marker inside a thumbnail does not count.
fn jpeg_has_end(encoded: &[u8]) -> bool {
    let mut at = 2; // past start-of-image
    loop {
        // Entropy-coded data stuffs every 0xFF with 0x00, so that the next other marker ends it.
        let Some(found) = encoded.get(at..).and_then(|rest| rest.iter().position(|&b| b == 0xff)) else {
            return false;
        };
        at += found + 1;
        match encoded.get(at) {
            None => return false,
            Some(0xd9) => return true,
            // Stuffing, a fill byte, or a marker without a length: restarts, start-of-image, TEM.
            Some(0xff) => {}
            Some(0x00 | 0x01 | 0xd0..=0xd8) => at += 1,
            Some(_) => match encoded.get(at + 1..at + 3) {
                Some(length) => at += 1 + usize::from(u16::from_be_bytes([length[0], length[1]])),
                None => return false,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{DynamicImage, ImageFormat};

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
        let png = |image: &DynamicImage| decode(&encoded(image, ImageFormat::Png)).unwrap();
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
        assert_eq!(decode(&file).unwrap().into_raw(), [40, 50, 60, 10, 20, 30]);
    }

    #[test]
    fn webp_decodes_without_loss() {
        let image = gradient(11, 5);
        let file = encoded(&DynamicImage::ImageRgb8(image.clone()), ImageFormat::WebP);
        assert_eq!(decode(&file).unwrap(), image);
    }

    #[test]
    fn every_truncation_is_refused_and_none_panics() {
        for format in [ImageFormat::Jpeg, ImageFormat::Png, ImageFormat::WebP] {
            let file = encoded(&DynamicImage::ImageRgb8(gradient(40, 30)), format);
            decode(&file).unwrap();
            // The last bytes of a PNG (its empty end chunk) may go missing without loss.
            for len in 0..file.len() - 12 {
                assert!(decode(&file[..len]).is_err(), "{format:?} cut to {len} of {}", file.len());
            }
        }
    }

    #[test]
    fn huge_images_are_refused_by_their_header() {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, MAX_SIDE + 1, 1);
        encoder.set_color(png::ColorType::Grayscale);
        let row = vec![0; MAX_SIDE as usize + 1];
        encoder.write_header().unwrap().write_image_data(&row).unwrap();
        let error = decode_image(&file, "big.png").unwrap_err().to_string();
        assert!(error.contains("big.png") && error.contains("16384"), "{error}");
    }

    #[test]
    fn what_is_no_image_is_said_to_be_none() {
        let error = decode_image(b"hello", "notes.jpg").unwrap_err().to_string();
        assert!(error.contains("neither JPEG, PNG nor WebP"), "{error}");
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
        assert!(jpeg_has_end(&with_thumbnail));
        assert!(!jpeg_has_end(&with_thumbnail[..with_thumbnail.len() - 2]));
    }
}
