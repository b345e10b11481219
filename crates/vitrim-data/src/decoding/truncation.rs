//! Checks that an encoded image is complete, for formats whose decoders fill in missing data.

/// Whether a WebP file is as long as its RIFF header says, except for a last byte of padding.
pub(super) fn webp_is_whole(encoded: &[u8]) -> bool {
    let promised = encoded.get(4..8).and_then(|size| size.try_into().ok()).map(u32::from_le_bytes);
    promised.is_some_and(|promised| encoded.len() as u64 + 1 >= u64::from(promised) + 8)
}

/// Information in the marker segments of a JPEG.
pub(super) struct JpegSegments {
    /// Whether the segments reach the end-of-image marker.
    pub(super) has_end: bool,
    pub(super) progressive: bool,
}

/// Parses the segments of ITU-T T.81 annex B, so that an end marker inside a thumbnail does not count.
pub(super) fn jpeg_segments(encoded: &[u8]) -> JpegSegments {
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
    use std::io::Cursor;

    use image::{ImageFormat, RgbImage};

    use super::*;

    #[test]
    fn an_end_inside_a_thumbnail_is_not_the_end() {
        let mut file = Cursor::new(Vec::new());
        RgbImage::new(16, 16).write_to(&mut file, ImageFormat::Jpeg).unwrap();
        let file = file.into_inner();
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
