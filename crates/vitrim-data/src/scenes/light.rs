//! The light on a scene.

use super::geometry::SIDE;
use super::random::Random;

/// A brightness that varies over the image: a slope, or a lamp's circle.
pub(super) struct Light {
    level: f32,
    /// Change of brightness per pixel, along x and y.
    slope: [f32; 2],
    lamp: [f32; 2],
    /// Change of brightness per squared pixel of distance from the lamp.
    falloff: f32,
}

impl Light {
    pub(super) fn new(random: &mut Random) -> Self {
        let side = SIDE as f32;
        let level = random.range(0.85..1.1);
        let lamp = [random.range(0.0..side), random.range(0.0..side)];
        if random.chance(0.5) {
            let steepness = random.range(0.0..0.5) / side;
            let slope = random.direction().map(|d| d * steepness);
            return Self { level, slope, lamp, falloff: 0.0 };
        }
        let falloff = random.range(0.0..0.45) / (side * side);
        Self { level: level + 0.1, slope: [0.0; 2], lamp, falloff }
    }

    /// The factor on colours at (`x`, `y`) pixels.
    pub(super) fn at(&self, x: f32, y: f32) -> f32 {
        let half = SIDE as f32 / 2.0;
        let (from_x, from_y) = (x - self.lamp[0], y - self.lamp[1]);
        let slope = self.slope[0] * (x - half) + self.slope[1] * (y - half);
        let falloff = self.falloff * (from_x * from_x + from_y * from_y);
        (self.level + slope - falloff).max(0.5)
    }
}
