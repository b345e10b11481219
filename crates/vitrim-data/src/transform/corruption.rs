//! Corruptions of images, to test a model on images unlike those that it was trained and calibrated on (after
//! Hendrycks and Dietterich, 2019).

use std::fmt;
use std::io::Cursor;
use std::str::FromStr;

use image::codecs::jpeg::JpegEncoder;
use image::{ImageFormat, RgbImage, imageops};
use rand_pcg::Pcg32;
use rand_pcg::rand_core::RngCore;
use vitrim_random::mix;

use crate::error::DataError;

/// A change to an image at the model's input size, before normalising. Noise depends only on the image's position in
/// the data set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corruption {
    kind: Distortion,
    severity: Severity,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Distortion {
    /// Gaussian noise on each value, standard deviation 0.06 or 0.1 of the range.
    Noise,
    /// A Gaussian blur, standard deviation 0.015 or 0.03 of the image's shorter side.
    Blur,
    /// Contrast reduced to 0.5 or 0.25: the distance from the image's mean times this factor.
    Contrast,
    /// Brightness increased by 0.15 or 0.3 of the range.
    Brightness,
    /// JPEG at quality 50 or 15.
    Jpeg,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Severity {
    Mild,
    Severe,
}

const KINDS: [(&str, Distortion); 5] = [
    ("noise", Distortion::Noise),
    ("blur", Distortion::Blur),
    ("contrast", Distortion::Contrast),
    ("brightness", Distortion::Brightness),
    ("jpeg", Distortion::Jpeg),
];

impl Corruption {
    /// Every kind at both severities.
    pub fn all() -> impl Iterator<Item = Corruption> {
        let severities = [Severity::Mild, Severity::Severe];
        KINDS.into_iter().flat_map(move |(_, kind)| severities.map(|severity| Corruption { kind, severity }))
    }

    /// The corrupted image at `index`, of the same size as `image`.
    ///
    /// # Errors
    ///
    /// [`DataError::Corrupt`] if the image cannot be encoded as a JPEG.
    pub fn apply(&self, image: &RgbImage, index: usize) -> Result<RgbImage, DataError> {
        let pick = |mild: f32, severe: f32| if self.severity == Severity::Mild { mild } else { severe };
        match self.kind {
            Distortion::Noise => {
                let deviation = 255.0 * pick(0.06, 0.1);
                let mut random = Pcg32::new(mix(index as u64), 1);
                Ok(changed(image, |value| value + deviation * normal(&mut random)))
            }
            Distortion::Blur => {
                let side = image.width().min(image.height()) as f32;
                Ok(imageops::blur(image, side * pick(0.015, 0.03)))
            }
            Distortion::Contrast => {
                let values = image.as_raw();
                let mean = values.iter().map(|v| f32::from(*v)).sum::<f32>() / values.len().max(1) as f32;
                Ok(changed(image, |value| mean + pick(0.5, 0.25) * (value - mean)))
            }
            Distortion::Brightness => Ok(changed(image, |value| value + 255.0 * pick(0.15, 0.3))),
            Distortion::Jpeg => {
                let mut bytes = Vec::new();
                let quality = pick(50.0, 15.0) as u8;
                let encoded = JpegEncoder::new_with_quality(&mut bytes, quality).encode_image(image);
                let decoded = encoded.and_then(|()| {
                    image::ImageReader::with_format(Cursor::new(bytes), ImageFormat::Jpeg).decode()
                });
                decoded
                    .map(image::DynamicImage::into_rgb8)
                    .map_err(|error| DataError::Corrupt(error.to_string()))
            }
        }
    }
}

impl fmt::Display for Corruption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = KINDS.iter().find(|(_, kind)| *kind == self.kind).map_or("", |(name, _)| name);
        let severity = if self.severity == Severity::Mild { "mild" } else { "severe" };
        write!(f, "{name}-{severity}")
    }
}

impl FromStr for Corruption {
    type Err = DataError;

    /// Reads names such as `noise-mild` and `jpeg-severe`.
    ///
    /// # Errors
    ///
    /// [`DataError::Corrupt`] for anything else; the message has all names.
    fn from_str(text: &str) -> Result<Self, DataError> {
        Corruption::all().find(|corruption| corruption.to_string() == text).ok_or_else(|| {
            let names: Vec<String> = Corruption::all().map(|corruption| corruption.to_string()).collect();
            DataError::Corrupt(format!("no such corruption '{text}'; use one of {}", names.join(", ")))
        })
    }
}

/// `image` with `change` applied to each value, 0 to 255.
fn changed(image: &RgbImage, mut change: impl FnMut(f32) -> f32) -> RgbImage {
    let mut image = image.clone();
    for value in image.iter_mut() {
        *value = change(f32::from(*value)).round().clamp(0.0, 255.0) as u8;
    }
    image
}

/// A standard normal draw (Box and Muller).
fn normal(random: &mut Pcg32) -> f32 {
    let uniform = |random: &mut Pcg32| (f64::from(random.next_u32()) + 0.5) / 4_294_967_296.0;
    let (a, b) = (uniform(random), uniform(random));
    ((-2.0 * a.ln()).sqrt() * (std::f64::consts::TAU * b).cos()) as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ramp() -> RgbImage {
        RgbImage::from_fn(40, 32, |x, y| image::Rgb([(4 * x) as u8, (5 * y) as u8, ((x * y) % 200) as u8]))
    }

    fn distance(a: &RgbImage, b: &RgbImage) -> f64 {
        let squares = a.iter().zip(b.iter()).map(|(a, b)| (f64::from(*a) - f64::from(*b)).powi(2));
        (squares.sum::<f64>() / a.len() as f64).sqrt()
    }

    #[test]
    fn each_changes_the_image_and_the_severe_more() {
        let image = ramp();
        let all: Vec<Corruption> = Corruption::all().collect();
        for pair in all.chunks_exact(2) {
            let [mild, severe] = [0, 1].map(|i| pair[i].apply(&image, 7).unwrap());
            assert_eq!((mild.dimensions(), severe.dimensions()), ((40, 32), (40, 32)));
            let (a, b) = (distance(&image, &mild), distance(&image, &severe));
            assert!(a > 1.0 && b > 1.3 * a, "{}: {a} and {b}", pair[0]);
            assert_eq!(mild, pair[0].apply(&image, 7).unwrap(), "a function of the image and its place");
        }
        let noise: Corruption = "noise-mild".parse().unwrap();
        assert_ne!(noise.apply(&image, 1).unwrap(), noise.apply(&image, 2).unwrap());
        let flat = RgbImage::from_pixel(64, 64, image::Rgb([128; 3]));
        let deviation = distance(&flat, &noise.apply(&flat, 0).unwrap());
        assert!((deviation - 0.06 * 255.0).abs() < 0.5, "{deviation}");
    }

    #[test]
    fn names_are_read_and_strangers_refused() {
        for corruption in Corruption::all() {
            assert_eq!(corruption.to_string().parse::<Corruption>().unwrap(), corruption);
        }
        let error = "fog".parse::<Corruption>().unwrap_err().to_string();
        assert!(error.contains("'fog'") && error.contains("noise-mild, noise-severe, blur-mild"), "{error}");
    }
}
