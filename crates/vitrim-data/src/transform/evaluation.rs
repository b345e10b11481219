//! timm's evaluation transform (`timm/data/transforms_factory.py`, `transforms_imagenet_eval`): resize
//! keeping the ratio, crop the centre, scale to [0, 1], normalise.

use std::sync::Arc;

use fast_image_resize::images::{Image, ImageRef};
use fast_image_resize::{FilterType, PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::{RgbImage, imageops};

use super::preprocess::{CropMode, CropStart, Interpolation, Preprocess};
use crate::error::DataError;
use crate::limits::MAX_RESIZED_PIXELS;

/// The aspect ratio above which the ends of an image are cut off before the resize instead of after it: otherwise a
/// strip of 1 x 16,384 pixels would be enlarged to gigabytes, of which the crop keeps the middle.
const MAX_RATIO: u32 = 100;

/// Converts 8-bit RGB of any size to pixels of the input size. Cloning is cheap.
#[derive(Clone, Debug)]
pub struct Transform {
    preprocess: Arc<Preprocess>,
    /// `normalised[c][u]` is channel c's value of the byte u, so that every pixel is exactly
    /// `(u / 255 - mean) / std` in f32, the order of operations that torchvision has.
    normalised: Arc<[[f32; 256]; 3]>,
}

impl Transform {
    /// Prepares the transform.
    ///
    /// # Errors
    ///
    /// [`DataError::Preprocess`] if a number of `preprocess` is invalid.
    pub fn new(preprocess: Preprocess) -> Result<Self, DataError> {
        preprocess.validate()?;
        let mut normalised = [[0.0; 256]; 3];
        for (c, table) in normalised.iter_mut().enumerate() {
            for (byte, value) in table.iter_mut().enumerate() {
                *value = (byte as f32 / 255.0 - preprocess.mean[c]) / preprocess.std[c];
            }
        }
        Ok(Self { preprocess: Arc::new(preprocess), normalised: Arc::new(normalised) })
    }

    /// The preprocessing of this transform.
    pub fn preprocess(&self) -> &Preprocess {
        &self.preprocess
    }

    /// Number of values of an image of the input size: 3 x H x W. [`pixels`](Self::pixels) returns so many, unless images
    /// keep their aspect ratio ([`Preprocess::naflex`]).
    pub fn pixel_count(&self) -> usize {
        self.preprocess.input_size.iter().product()
    }

    /// Normalised pixels `[3, H, W]`, row-major, of `rgb`.
    pub fn pixels(&self, rgb: &RgbImage) -> Vec<f32> {
        self.normalized(&self.cropped(rgb))
    }

    /// Normalised pixels `[3, H, W]`, row-major, of `cropped`, the output of [`cropped`](Self::cropped): cropping
    /// twice would give another result.
    pub fn normalized(&self, cropped: &RgbImage) -> Vec<f32> {
        let mut pixels = vec![0.0; cropped.as_raw().len()];
        self.write_normalized(cropped, &mut pixels);
        pixels
    }

    /// Writes the pixels of [`normalized`](Self::normalized) to `pixels: [3, H, W]`.
    ///
    /// # Panics
    ///
    /// If `cropped` is not H x W, unless images keep their aspect ratio; or `pixels` is not of its size.
    pub fn write_normalized(&self, cropped: &RgbImage, pixels: &mut [f32]) {
        let values = cropped.as_raw().len();
        let fits = self.preprocess.naflex.is_some() || values == self.pixel_count();
        assert!(fits && pixels.len() == values, "3 x H x W values each");
        for (c, (table, plane)) in self.normalised.iter().zip(pixels.chunks_exact_mut(values / 3)).enumerate()
        {
            let channel = cropped.as_raw().iter().skip(c).step_by(3);
            for (pixel, &byte) in plane.iter_mut().zip(channel) {
                *pixel = table[usize::from(byte)];
            }
        }
    }

    /// The H x W crop of `rgb` that is the backbone's input, before normalising; or all of `rgb`, resized, if images keep
    /// their aspect ratio.
    pub fn cropped(&self, rgb: &RgbImage) -> RgbImage {
        if let Some(naflex) = self.preprocess.naflex {
            let (source, target) = ((rgb.height(), rgb.width()), naflex.size((rgb.height(), rgb.width())));
            return if source == target { rgb.clone() } else { self.resize(rgb, target) };
        }
        let [_, height, width] = self.preprocess.input_size.map(|side| side as u32);
        let source = (rgb.height(), rgb.width());
        let start = self.preprocess.crop_start;
        let [scale_h, scale_w] = self.preprocess.resized();
        let affordable = MAX_RESIZED_PIXELS / (scale_h * scale_w) as u64;
        let ratio = MAX_RATIO.min(u32::try_from(affordable).unwrap_or(MAX_RATIO)).max(1);
        let longest = source.0.min(source.1).saturating_mul(ratio);
        let grows = self.preprocess.crop_mode == CropMode::Center;
        if grows && source.0.max(source.1) > longest {
            return self.cropped(&center_crop(rgb, source.0.min(longest), source.1.min(longest), start));
        }
        let target = self.resized_size(source);
        if target == source {
            return center_crop(rgb, height, width, start);
        }
        center_crop(&self.resize(rgb, target), height, width, start)
    }

    /// (height, width) after the resize, for an image of (height, width) `source`.
    fn resized_size(&self, source: (u32, u32)) -> (u32, u32) {
        let [scale_h, scale_w] = self.preprocess.resized();
        if self.preprocess.crop_mode == CropMode::Squash {
            return (scale_h as u32, scale_w as u32);
        }
        let (source_h, source_w) = (f64::from(source.0), f64::from(source.1));
        if scale_h == scale_w {
            // torchvision's Resize(int): the short side to the target, the long one truncated.
            let long = |long: f64, short: f64| (scale_h * long / short) as u32;
            return if source_w <= source_h {
                (long(source_h, source_w), scale_h as u32)
            } else {
                (scale_h as u32, long(source_w, source_h))
            };
        }
        // timm's ResizeKeepRatio: the side that needs it more decides; Python's round().
        let ratio = (source_h / scale_h).min(source_w / scale_w);
        let side = |source: f64| (source / ratio).round_ties_even().max(1.0) as u32;
        (side(source_h), side(source_w))
    }

    /// Rows first, columns second, rounded to 8 bits in between, like Pillow: where a filter overshoots, the other
    /// order gives other bytes.
    fn resize(&self, rgb: &RgbImage, (height, width): (u32, u32)) -> RgbImage {
        let filter = match self.preprocess.interpolation {
            Interpolation::Bicubic => FilterType::CatmullRom,
            Interpolation::Bilinear => FilterType::Bilinear,
        };
        let options = ResizeOptions::new().resize_alg(ResizeAlg::Convolution(filter));
        let mut resizer = Resizer::new();
        let mut pass = |source: ImageRef<'_>, width, height| {
            let mut target = Image::new(width, height, PixelType::U8x3);
            resizer
                .resize(&source, &mut target, &options)
                .expect("both images are U8x3 and nothing is cropped");
            target.into_vec()
        };
        let view = |width, height, bytes| {
            ImageRef::new(width, height, bytes, PixelType::U8x3).expect("3 bytes a pixel of these sides")
        };
        let rows = pass(view(rgb.width(), rgb.height(), rgb.as_raw()), width, rgb.height());
        let resized = pass(view(width, rgb.height(), &rows), width, height);
        RgbImage::from_raw(width, height, resized).expect("the target holds 3 bytes a pixel")
    }
}

/// torchvision's `CenterCrop` and transformers': pads with black if the image is smaller, then cuts.
fn center_crop(rgb: &RgbImage, height: u32, width: u32, start: CropStart) -> RgbImage {
    if rgb.dimensions() == (width, height) {
        return rgb.clone();
    }
    if rgb.width() < width || rgb.height() < height {
        let mut padded = RgbImage::new(rgb.width().max(width), rgb.height().max(height));
        let left = width.saturating_sub(rgb.width()) / 2;
        let top = height.saturating_sub(rgb.height()) / 2;
        imageops::replace(&mut padded, rgb, left.into(), top.into());
        return center_crop(&padded, height, width, start);
    }
    let start = |margin: u32| match start {
        CropStart::Rounded => (f64::from(margin) / 2.0).round_ties_even() as u32,
        CropStart::Floored => margin / 2,
    };
    let (left, top) = (start(rgb.width() - width), start(rgb.height() - height));
    imageops::crop_imm(rgb, left, top, width, height).to_image()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn transform(height: usize, width: usize, crop_pct: f64) -> Transform {
        let input_size = [3, height, width];
        Transform::new(Preprocess { input_size, crop_pct, ..Preprocess::default() }).unwrap()
    }

    fn pattern(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| image::Rgb([(x * 7) as u8, (y * 5) as u8, (x + y) as u8]))
    }

    #[test]
    fn sizes_are_torchvisions() {
        // floor(224 / 0.9) = 248; int(248 * 500 / 333) = 372.
        assert_eq!(transform(224, 224, 0.9).resized_size((333, 500)), (248, 372));
        assert_eq!(transform(224, 224, 0.9).resized_size((500, 333)), (372, 248));
        // 256 / 0.8 is exactly 320 in f64 and less in f32.
        assert_eq!(transform(256, 256, 0.8).resized_size((640, 640)), (320, 320));
        assert_eq!(transform(224, 224, 0.875).resized_size((256, 300)), (256, 300));
        // Non-square: height / 96 = 2 is the smaller ratio, 375 / 2 rounds to even.
        assert_eq!(transform(96, 160, 1.0).resized_size((192, 375)), (96, 188));
        assert_eq!(transform(96, 160, 1.0).resized_size((192, 373)), (96, 186));
    }

    #[test]
    fn squashing_gives_up_the_ratio_and_loses_no_edge() {
        let preprocess = Preprocess { input_size: [3, 32, 32], crop_pct: 1.0, ..Preprocess::default() };
        let squash = Transform::new(Preprocess { crop_mode: CropMode::Squash, ..preprocess }).unwrap();
        assert_eq!(squash.resized_size((10, 1000)), (32, 32));
        // Left half black, right half white, in a strip that a central crop would cut both ends off.
        let strip = RgbImage::from_fn(6400, 32, |x, _| image::Rgb([if x < 3200 { 0 } else { 255 }; 3]));
        let crop = squash.cropped(&strip);
        assert_eq!((crop.dimensions(), crop[(0, 9)][0], crop[(31, 9)][0]), ((32, 32), 0, 255));
    }

    #[test]
    fn an_image_of_the_right_size_is_normalised_exactly() {
        let transform = transform(32, 32, 1.0);
        let image = pattern(32, 32);
        assert_eq!(transform.cropped(&image), image);
        let pixels = transform.pixels(&image);
        assert_eq!(pixels.len(), 3 * 32 * 32);
        let Preprocess { mean, std, .. } = transform.preprocess().clone();
        for (x, y, pixel) in image.enumerate_pixels() {
            for c in 0..3 {
                let want = (f32::from(pixel[c]) / 255.0 - mean[c]) / std[c];
                assert_eq!(pixels[c * 1024 + (y * 32 + x) as usize].to_bits(), want.to_bits());
            }
        }
    }

    #[test]
    fn odd_margins_round_to_even_or_down() {
        // Margins of 5 and 3: int(round(2.5)) = 2 and int(round(1.5)) = 2.
        for (start, x, y) in [(CropStart::Rounded, 2, 2), (CropStart::Floored, 2, 1)] {
            let crop = center_crop(&pattern(13, 11), 8, 8, start);
            assert_eq!(crop.get_pixel(0, 0), pattern(13, 11).get_pixel(x, y));
        }
    }

    #[test]
    fn too_small_images_get_black_borders() {
        let white = RgbImage::from_pixel(2, 9, image::Rgb([255; 3]));
        let crop = center_crop(&white, 5, 5, CropStart::Rounded);
        assert_eq!(crop.dimensions(), (5, 5));
        // Left padding (5 - 2) / 2 = 1, right padding 2.
        let row: Vec<u8> = (0..5).map(|x| crop.get_pixel(x, 2)[0]).collect();
        assert_eq!(row, [0, 255, 255, 0, 0]);
    }

    #[test]
    fn extreme_shapes_come_out_at_the_right_size() {
        for (width, height) in [(1, 1), (1, 16_384), (16_384, 1), (3, 2)] {
            for t in [transform(32, 32, 0.9), transform(16, 48, 0.9), transform(32, 32, 1.5)] {
                let [_, h, w] = t.preprocess().input_size;
                assert_eq!(t.cropped(&pattern(width, height)).dimensions(), (w as u32, h as u32));
            }
        }
    }

    #[test]
    fn a_flat_image_stays_flat() {
        let flat = RgbImage::from_pixel(97, 61, image::Rgb([10, 128, 250]));
        assert!(transform(32, 32, 0.9).cropped(&flat).pixels().all(|p| p.0 == [10, 128, 250]));
    }
}
