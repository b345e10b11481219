//! Augmentation for pre-training: shifts, mirror images and changes of colour, keyed by (seed, epoch,
//! index).

use image::RgbImage;
use rand_pcg::Pcg32;
use rand_pcg::rand_core::RngCore;
use serde::{Deserialize, Serialize};
use vitrim_random::mix;

use crate::error::DataError;

/// Random changes of an image at the model's input size, before normalising.
///
/// The changes to an image depend only on the seed, the epoch and the image's position in the data set. The default
/// changes nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Augment {
    /// Pixels of reflected border that are added before a random crop at the old size: the image moves by up to this
    /// number of pixels in each direction.
    pub crop_padding: u32,
    /// Whether half of the images are mirrored left to right.
    pub flip: bool,
    /// Brightness, contrast and saturation are each multiplied by a uniform factor in `[1 - j, 1 + j]`.
    pub color_jitter: f32,
    /// The run's seed.
    pub seed: u64,
}

impl Augment {
    /// Checks the numbers for inputs of `height` x `width` pixels.
    ///
    /// # Errors
    ///
    /// [`DataError::Augment`] if the jitter lies outside 0 to 1, or if the padding is not smaller than
    /// the input.
    pub fn validate(&self, height: usize, width: usize) -> Result<(), DataError> {
        if !(0.0..=1.0).contains(&self.color_jitter) {
            let what = format!("color_jitter is {}; give 0 to 1", self.color_jitter);
            return Err(DataError::Augment { what });
        }
        if self.crop_padding as usize >= height.min(width) {
            let Self { crop_padding, .. } = self;
            let what =
                format!("crop_padding is {crop_padding}; give less than the input, {height} x {width}");
            return Err(DataError::Augment { what });
        }
        Ok(())
    }

    /// The changed image at `index` in pass `epoch`, of the same size as `image`.
    pub fn apply(&self, image: &RgbImage, epoch: u64, index: usize) -> RgbImage {
        let key = mix(mix(mix(self.seed).wrapping_add(epoch)) ^ mix(index as u64));
        let mut random = Pcg32::new(key, 0);
        // Every random number is drawn even if it is not used, so that one setting does not affect the others.
        let shifts = [(); 2].map(|()| below(&mut random, 2 * self.crop_padding + 1));
        let mirrored = below(&mut random, 2) == 1 && self.flip;
        let factors = [(); 3].map(|()| factor(&mut random, self.color_jitter));
        let mut moved = self.moved(image, shifts, mirrored);
        if self.color_jitter > 0.0 {
            jitter(&mut moved, factors);
        }
        moved
    }

    /// The crop that starts `shifts` to the right and down in the padded image, then mirrored.
    fn moved(&self, image: &RgbImage, [right, down]: [u32; 2], mirrored: bool) -> RgbImage {
        let (width, height) = image.dimensions();
        RgbImage::from_fn(width, height, |x, y| {
            let x = if mirrored { width - 1 - x } else { x };
            let column = reflected(x + right, self.crop_padding, width);
            *image.get_pixel(column, reflected(y + down, self.crop_padding, height))
        })
    }
}

/// The position in `0..side` for position `at` of the padded side; the edge itself is not repeated.
fn reflected(at: u32, padding: u32, side: u32) -> u32 {
    let at = at.abs_diff(padding);
    if at < side { at } else { 2 * (side - 1) - at }
}

/// torchvision's `ColorJitter` in the order brightness, contrast, saturation, rounded once at the end.
fn jitter(image: &mut RgbImage, [brightness, contrast, saturation]: [f32; 3]) {
    let count = (image.width() * image.height()) as f32;
    let gray_sum: f32 = image.pixels().map(|pixel| gray(pixel.0.map(f32::from))).sum();
    let mean = brightness * gray_sum / count;
    for pixel in image.pixels_mut() {
        let color = pixel.0.map(|byte| mean + contrast * (brightness * f32::from(byte) - mean));
        let gray = gray(color);
        // Casts saturate, which clips to the range of a byte.
        pixel.0 = color.map(|channel| (gray + saturation * (channel - gray) + 0.5) as u8);
    }
}

/// ITU-R 601's luma.
fn gray([r, g, b]: [f32; 3]) -> f32 {
    0.299 * r + 0.587 * g + 0.114 * b
}

fn below(random: &mut Pcg32, count: u32) -> u32 {
    ((u64::from(random.next_u32()) * u64::from(count)) >> 32) as u32
}

/// A uniform random number in `[1 - jitter, 1 + jitter]`.
fn factor(random: &mut Pcg32, jitter: f32) -> f32 {
    let unit = (random.next_u32() >> 8) as f32 / (1 << 24) as f32;
    1.0 + jitter * (2.0 * unit - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern() -> RgbImage {
        RgbImage::from_fn(9, 6, |x, y| image::Rgb([(x * 25) as u8, (y * 40) as u8, (x * y * 4) as u8]))
    }

    #[test]
    fn the_default_changes_nothing() {
        for index in 0..50 {
            assert_eq!(Augment::default().apply(&pattern(), 3, index), pattern());
        }
    }

    #[test]
    fn about_half_of_the_images_are_mirrored() {
        let augment = Augment { flip: true, ..Augment::default() };
        let mirror = image::imageops::flip_horizontal(&pattern());
        let mut mirrored = 0;
        for index in 0..1000 {
            let changed = augment.apply(&pattern(), 0, index);
            assert!(changed == mirror || changed == pattern());
            mirrored += usize::from(changed == mirror);
        }
        assert!((440..560).contains(&mirrored), "{mirrored}");
    }

    #[test]
    fn a_crop_moves_the_image_and_reflects_its_border() {
        let augment = Augment { crop_padding: 2, ..Augment::default() };
        let image = pattern();
        let mut seen = std::collections::HashSet::new();
        for index in 0..500 {
            let changed = augment.apply(&image, 0, index);
            // The pixel in the middle shows the shift.
            let middle = changed.get_pixel(4, 3);
            let (x, y) = (u32::from(middle[0]) / 25, u32::from(middle[1]) / 40);
            assert_eq!(augment.moved(&image, [x + 2 - 4, y + 2 - 3], false), changed);
            seen.insert((x, y));
        }
        assert_eq!(seen.len(), 25);
        let corner = augment.moved(&image, [0, 4], false);
        assert_eq!(corner.get_pixel(0, 5), image.get_pixel(2, 3));
    }

    #[test]
    fn colors_move_within_the_jitter() {
        let augment = Augment { color_jitter: 0.3, ..Augment::default() };
        let gray = RgbImage::from_pixel(4, 4, image::Rgb([100; 3]));
        let mut met = std::collections::HashSet::new();
        for index in 0..300 {
            let changed = augment.apply(&gray, 0, index);
            // On a uniform grey, contrast and saturation have no effect.
            assert!(changed.pixels().all(|pixel| pixel == changed.get_pixel(0, 0)));
            let [r, g, b] = changed.get_pixel(0, 0).0;
            assert!(r == g && g == b && (70..=130).contains(&r), "{r} {g} {b}");
            met.insert(r);
        }
        assert!(met.len() > 40);
    }

    #[test]
    fn seed_epoch_and_index_each_change_the_result() {
        let augment = Augment { crop_padding: 2, flip: true, color_jitter: 0.4, seed: 1 };
        let base = augment.apply(&pattern(), 0, 0);
        assert_eq!(augment.apply(&pattern(), 0, 0), base);
        assert_ne!(augment.apply(&pattern(), 1, 0), base);
        assert_ne!(augment.apply(&pattern(), 0, 1), base);
        assert_ne!(Augment { seed: 2, ..augment }.apply(&pattern(), 0, 0), base);
    }

    #[test]
    fn senseless_numbers_are_refused() {
        for color_jitter in [-0.1, 1.1, f32::NAN] {
            assert!(Augment { color_jitter, ..Augment::default() }.validate(8, 8).is_err());
        }
        assert!(Augment { crop_padding: 8, ..Augment::default() }.validate(8, 9).is_err());
        assert!(Augment { crop_padding: 7, ..Augment::default() }.validate(8, 9).is_ok());
    }
}
