//! The key of a single image.

use image::RgbImage;

/// The key of random decisions about a single image: the first 64 bits, little endian, of the BLAKE3 hash of its
/// width, height (32 bits each, little endian) and pixels.
///
/// `crop` is the backbone's input. An image therefore gets the same answer whatever its path, its file name and the
/// other images of its batch are, and whether it comes from a file, from a shard or as pixels in memory. Images of a
/// data set are keyed by their positions instead: see [`Batch::keys`](crate::Batch::keys).
pub fn image_key(crop: &RgbImage) -> u64 {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&crop.width().to_le_bytes()).update(&crop.height().to_le_bytes()).update(crop.as_raw());
    let mut head = [0; 8];
    head.copy_from_slice(&hasher.finalize().as_bytes()[..8]);
    u64::from_le_bytes(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_pinned_and_of_pixels_and_shape() {
        let image = RgbImage::from_fn(4, 2, |x, y| image::Rgb([x as u8, y as u8, 7]));
        // The value that Python's `blake3` gives.
        assert_eq!(image_key(&image), 0xffa2_c5f7_c650_9222);
        let turned = RgbImage::from_raw(2, 4, image.clone().into_raw()).unwrap();
        assert_ne!(image_key(&turned), image_key(&image));
        let mut other = image.clone();
        other.get_pixel_mut(3, 1)[2] = 8;
        assert_ne!(image_key(&other), image_key(&image));
    }
}
