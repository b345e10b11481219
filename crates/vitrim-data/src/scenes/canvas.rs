//! The picture while it is drawn: colours as under even white light.

use image::RgbImage;

use super::geometry::{Bounds, Circle, SCENE_SIDE, SIDE};
use super::light::Light;
use super::paint::{Color, Paint};
use super::random::Random;

/// SIDE x SIDE colours, row by row.
#[derive(Clone)]
pub(super) struct Canvas(pub(super) Vec<Color>);

impl Canvas {
    /// Paints a shape that lies in `circle`, as far as it lies in the image, with edges one pixel wide.
    ///
    /// `distance` is the signed distance to the shape's edge, negative inside, in units of the circle's
    /// radius and from its centre. Returns which pixels it touched; `None` if there were none.
    pub(super) fn fill(
        &mut self,
        circle: Circle,
        paint: &Paint,
        distance: impl Fn(f32, f32) -> f32,
    ) -> Option<Bounds> {
        let Circle { x: centre_x, y: centre_y, radius } = circle;
        // Casts saturate, so that what lies left of or above the image starts at 0.
        let first = |centre: f32| (centre - radius - 1.0) as usize;
        let end = |centre: f32| ((centre + radius + 2.0) as usize).min(SIDE);
        let mut bounds: Option<Bounds> = None;
        for row in first(centre_y)..end(centre_y) {
            let y = (row as f32 + 0.5 - centre_y) / radius;
            for column in first(centre_x)..end(centre_x) {
                let x = (column as f32 + 0.5 - centre_x) / radius;
                let coverage = (0.5 - radius * distance(x, y)).min(1.0);
                if coverage <= 0.0 {
                    continue;
                }
                let color = paint.at(column, row);
                let pixel = &mut self.0[row * SIDE + column];
                for (old, new) in pixel.iter_mut().zip(color) {
                    *old += coverage * (new - *old);
                }
                let (column, row) = (column as u32, row as u32);
                let seen = bounds.get_or_insert(Bounds {
                    left: column,
                    top: row,
                    right: column + 1,
                    bottom: row + 1,
                });
                seen.left = seen.left.min(column);
                seen.right = seen.right.max(column + 1);
                seen.bottom = row + 1;
            }
        }
        bounds
    }

    /// Colours at the points of a 6 x 6 grid over the box of `circle`, which lies in the image.
    pub(super) fn samples(&self, circle: Circle) -> [Color; 36] {
        std::array::from_fn(|i| {
            let at = |centre: f32, step: usize| (centre + circle.radius * (step as f32 * 0.4 - 1.0)) as usize;
            self.0[at(circle.y, i / 6) * SIDE + at(circle.x, i % 6)]
        })
    }

    /// The picture under `light`, with a little noise on every pixel.
    pub(super) fn finish(&self, light: &Light, random: &mut Random) -> RgbImage {
        let amplitude = random.range(3.0..14.0) / 255.0;
        let mut noise = [0; SIDE * SIDE];
        random.bytes(&mut noise);
        let mut bytes = Vec::with_capacity(3 * SIDE * SIDE);
        for (row, (colors, noise)) in self.0.chunks_exact(SIDE).zip(noise.chunks_exact(SIDE)).enumerate() {
            for (column, (color, noise)) in colors.iter().zip(noise).enumerate() {
                let brightness = light.at(column as f32 + 0.5, row as f32 + 0.5);
                let noise = amplitude * (f32::from(*noise) - 127.5);
                // Casts saturate, which clips to the range of a byte.
                bytes.extend(color.map(|channel| (channel * brightness + noise + 0.5) as u8));
            }
        }
        RgbImage::from_raw(SCENE_SIDE, SCENE_SIDE, bytes).expect("3 bytes a pixel were written")
    }
}
