//! Colours, and the weak textures of objects and distractors.

use std::ops::Range;

use super::random::Random;

/// An RGB colour, 0 to 255 per channel.
pub(super) type Color = [f32; 3];

/// Radius, in pixels, from which the texture has full strength.
const FULL_TEXTURE: f32 = 16.0;

/// A colour with a texture.
#[derive(Clone, Copy)]
pub(super) struct Paint {
    color: Color,
    texture: Texture,
}

/// How the brightness of a paint varies over the image.
#[derive(Clone, Copy)]
enum Texture {
    Plain,
    /// A triangle wave along a direction: stripes, or a gradient if it is longer than the object.
    Wave {
        /// Periods per pixel, along x and y.
        frequency: [f32; 2],
        phase: f32,
        amplitude: f32,
    },
    /// Cells of 2 x 2 pixels, each with its own brightness.
    Speckle {
        key: u32,
        amplitude: f32,
    },
}

impl Paint {
    /// A random colour, except for the darkest and greyest, with a texture for a shape of `radius` pixels. The
    /// texture of small shapes is weaker, because stripes as wide as their parts would break up their outline.
    pub(super) fn random(random: &mut Random, radius: f32) -> Self {
        let strength = (radius / FULL_TEXTURE).min(1.0);
        let color = hsv(random.unit(), random.range(0.25..1.0), random.range(0.3..1.0));
        let texture = match random.below(8) {
            0..3 => Texture::Plain,
            3..5 => wave(random, 4.0..9.0, 0.08..0.18, strength),
            5..7 => wave(random, 40.0..90.0, 0.15..0.25, strength),
            _ => Texture::Speckle { key: random.key(), amplitude: strength * random.range(0.06..0.16) },
        };
        Self { color, texture }
    }

    /// Euclidean distance of the colours without texture.
    pub(super) fn contrast(&self, other: Color) -> f32 {
        distance(self.color, other)
    }

    pub(super) fn contrast_to(&self, other: &Self) -> f32 {
        distance(self.color, other.color)
    }

    /// The colour at the pixel in column `x` and row `y`.
    pub(super) fn at(&self, x: usize, y: usize) -> Color {
        let factor = match self.texture {
            Texture::Plain => return self.color,
            Texture::Wave { frequency, phase, amplitude } => {
                let turns = x as f32 * frequency[0] + y as f32 * frequency[1] + phase;
                1.0 + amplitude * triangle_wave(turns)
            }
            Texture::Speckle { key, amplitude } => {
                let cell = (x as u32 >> 1) | (y as u32 >> 1) << 16;
                let hash = (cell ^ key).wrapping_mul(0x9e37_79b1);
                let hash = (hash ^ hash >> 15).wrapping_mul(0x85eb_ca6b);
                1.0 + amplitude * ((hash >> 16) as f32 / 32_768.0 - 1.0)
            }
        };
        self.color.map(|channel| channel * factor)
    }
}

fn wave(random: &mut Random, period: Range<f32>, amplitude: Range<f32>, strength: f32) -> Texture {
    let period = random.range(period);
    let frequency = random.direction().map(|d| d / period);
    Texture::Wave { frequency, phase: random.unit(), amplitude: strength * random.range(amplitude) }
}

/// A triangle wave of period 1, from -1 to 1.
pub(super) fn triangle_wave(turns: f32) -> f32 {
    4.0 * (turns - turns.floor() - 0.5).abs() - 1.0
}

fn distance(a: Color, b: Color) -> f32 {
    let square = |c: usize| (a[c] - b[c]) * (a[c] - b[c]);
    (square(0) + square(1) + square(2)).sqrt()
}

/// The colour of a hue in turns, with saturation and value in `[0, 1]`.
pub(super) fn hsv(hue: f32, saturation: f32, value: f32) -> Color {
    [0.0, 1.0 / 3.0, 2.0 / 3.0].map(|shift| {
        let at = hue - shift + 0.5;
        let from_peak = (at - at.floor() - 0.5).abs() * 6.0;
        let pure = (2.0 - from_peak).clamp(0.0, 1.0);
        255.0 * value * (1.0 - saturation + saturation * pure)
    })
}
