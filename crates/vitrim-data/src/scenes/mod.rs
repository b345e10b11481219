//! Scenes: generated images, with one object of ten classes in front of a cluttered background.
//!
//! A scene is a function of a 64-bit seed alone. All arithmetic is on integers and on f32 with
//! correctly rounded operations, and the few sines come from `libm`, so that a seed gives the same
//! bytes on every machine. The object's size, and with it how many patches matter, differs widely from
//! scene to scene.
//!
//! Splits are ranges of seeds, far apart:
//!
//! | split | seeds |
//! | --- | --- |
//! | `train` | 0 to 1,999,999 |
//! | `validation` | 10,000,000 to 10,099,999 |
//! | `test` | 20,000,000 to 20,099,999 |

mod background;
mod canvas;
mod distractors;
mod geometry;
mod light;
mod paint;
mod random;
mod shapes;

use std::ops::Range;

use image::RgbImage;
use vitrim_random::mix;

use canvas::Canvas;
pub use geometry::{Bounds, SCENE_SIDE};
use geometry::{Circle, SIDE};
use light::Light;
use paint::Paint;
use random::{Random, RandomStream};
use shapes::Shape;

/// The name of each class, by label.
pub const SCENE_CLASSES: [&str; 10] =
    ["disk", "ring", "triangle", "bar", "cross", "star", "crescent", "ell", "heart", "hourglass"];

/// The path of scenes for [`Dataset::open`](crate::Dataset::open).
pub(crate) const SCENES_PATH: &str = "scenes";

/// Each split's name and its seeds.
pub(crate) const SPLITS: [(&str, Range<u64>); 3] =
    [("train", 0..2_000_000), ("validation", 10_000_000..10_100_000), ("test", 20_000_000..20_100_000)];

/// Smallest diameter of the object, and the range above it, in pixels.
const LEAST_SIZE: f32 = 12.0;
const SIZE_RANGE: f32 = 58.0;
/// Pixels that stay free between the object's circle and the image's edge.
const MARGIN: f32 = 1.0;
/// Largest number of tries for a colour of enough contrast; then the best one is taken.
const COLOR_TRIES: usize = 24;
/// Smallest Euclidean distance, in RGB values of 0 to 255, between the object's colour and the mean colour behind it.
const CONTRAST: f32 = 100.0;
/// Smallest colour distance for nine tenths of the points behind the object.
const POINT_CONTRAST: f32 = 75.0;

/// A generated scene.
#[derive(Clone, Debug, PartialEq)]
pub struct Scene {
    /// 96 x 96 pixels.
    pub image: RgbImage,
    /// The object's class, a position in [`SCENE_CLASSES`].
    pub label: u32,
    /// The box of the pixels that the object touches.
    pub bounds: Bounds,
    /// The diameter in pixels of the circle around the object, 12 to 70.
    pub size: f32,
}

/// The name of the scene of `seed`.
pub(crate) fn scene_name(seed: u64) -> String {
    format!("scene {seed}")
}

/// The class of the scene of `seed`, without drawing it.
pub(crate) fn label_of(seed: u64) -> u32 {
    (mix(mix(seed) ^ RandomStream::Label as u64) % SCENE_CLASSES.len() as u64) as u32
}

/// Draws the scene of `seed`: one object of [`SCENE_CLASSES`] before a cluttered background, the same
/// bytes on every machine.
pub fn draw_scene(seed: u64) -> Scene {
    let plan = Plan::new(seed);
    let mut canvas = plan.surroundings();
    let bounds = canvas
        .fill(plan.circle, &plan.paint, |x, y| plan.shape.distance(x, y))
        .expect("the object lies inside the image and is at least 12 pixels across");
    Scene { image: plan.finish(canvas), label: plan.label, bounds, size: 2.0 * plan.circle.radius }
}

/// Share of each patch that the object of the scene of `seed` covers, `[N0]` over a grid of square patches,
/// row-major; measured at every second pixel. The scene is not drawn.
pub(crate) fn object_shares(seed: u64, patch_size: usize) -> Vec<f32> {
    let Object { circle, shape, .. } = Object::new(seed);
    let patches = SIDE / patch_size;
    let inside = |row: usize, column: usize| {
        let x = (column as f32 + 0.5 - circle.x) / circle.radius;
        let y = (row as f32 + 0.5 - circle.y) / circle.radius;
        x * x + y * y <= 1.0 && shape.distance(x, y) <= 0.0
    };
    let share = |p: usize| {
        let (top, left) = (p / patches * patch_size, p % patches * patch_size);
        let rows = (top..top + patch_size).step_by(2);
        let points =
            rows.flat_map(|row| (left..left + patch_size).step_by(2).map(move |column| (row, column)));
        let (mut hit, mut all) = (0.0, 0.0f32);
        for (row, column) in points {
            hit += f32::from(u8::from(inside(row, column)));
            all += 1.0;
        }
        hit / all
    };
    (0..patches * patches).map(share).collect()
}

/// The diameter, in pixels, of the circle around the object of the scene of `seed`. The scene is not drawn.
pub(crate) fn object_size(seed: u64) -> f32 {
    2.0 * Object::new(seed).circle.radius
}

/// The object, and its place.
struct Object {
    label: u32,
    circle: Circle,
    shape: Shape,
    /// The random stream of the object, which continues with its colours.
    random: Random,
}

impl Object {
    fn new(seed: u64) -> Self {
        let label = label_of(seed);
        let mut random = Random::new(seed, RandomStream::Object);
        let radius = 0.5 * (LEAST_SIZE + SIZE_RANGE * random.unit());
        let room = radius + MARGIN..SIDE as f32 - radius - MARGIN;
        let circle = Circle { x: random.range(room.clone()), y: random.range(room), radius };
        let shape = Shape::new(label, radius, &mut random);
        Object { label, circle, shape, random }
    }
}

/// The decisions that are made after the background is drawn, and before anything else.
struct Plan {
    seed: u64,
    label: u32,
    shape: Shape,
    /// Where the object is.
    circle: Circle,
    paint: Paint,
    light: Light,
    background: Canvas,
}

impl Plan {
    fn new(seed: u64) -> Self {
        let Object { label, circle, shape, mut random } = Object::new(seed);
        let light = Light::new(&mut Random::new(seed, RandomStream::Light));
        let background = background::draw(&mut Random::new(seed, RandomStream::Background));
        let paint = contrasting(&mut random, &background, &light, circle);
        Self { seed, label, shape, circle, paint, light, background }
    }

    /// Everything but the object.
    fn surroundings(&self) -> Canvas {
        let mut canvas = self.background.clone();
        let mut random = Random::new(self.seed, RandomStream::Distractors);
        distractors::draw(&mut random, &mut canvas, self.circle, &self.paint);
        canvas
    }

    fn finish(&self, canvas: Canvas) -> RgbImage {
        canvas.finish(&self.light, &mut Random::new(self.seed, RandomStream::Noise))
    }
}

/// A paint that contrasts with the colours of `background` inside `circle`, under `light`.
fn contrasting(random: &mut Random, background: &Canvas, light: &Light, circle: Circle) -> Paint {
    let brightness = light.at(circle.x, circle.y);
    let points = background.samples(circle);
    let count = points.len() as f32;
    let mean = [0, 1, 2].map(|c| points.iter().map(|point| point[c]).sum::<f32>() / count);
    let mut best = (f32::NEG_INFINITY, Paint::random(random, circle.radius));
    for _ in 0..COLOR_TRIES {
        let paint = Paint::random(random, circle.radius);
        let far = |point: &[f32; 3]| paint.contrast(*point) * brightness;
        let clear = points.iter().filter(|point| far(point) >= POINT_CONTRAST).count() as f32 / count;
        let score = (far(&mean) / CONTRAST).min(1.0) + (clear / 0.9).min(1.0);
        if score > best.0 {
            best = (score, paint);
        }
        if score >= 2.0 {
            break;
        }
    }
    best.1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_the_box_of_what_the_object_changes() {
        for seed in 0..300 {
            let plan = Plan::new(seed);
            let (without, scene) = (plan.finish(plan.surroundings()), draw_scene(seed));
            let Bounds { left, top, right, bottom } = scene.bounds;
            for (x, y, pixel) in scene.image.enumerate_pixels() {
                let within = (left..right).contains(&x) && (top..bottom).contains(&y);
                assert!(within || pixel == without.get_pixel(x, y), "{seed}: ({x}, {y})");
            }
            assert!(left > 0 && top > 0 && right < SCENE_SIDE && bottom < SCENE_SIDE, "{seed}");
        }
    }

    #[test]
    fn objects_stand_out_from_their_background() {
        let enough = (0..1000).filter(|&seed| {
            let Plan { circle, paint, light, background, .. } = Plan::new(seed);
            let points = background.samples(circle);
            let mean = [0, 1, 2].map(|c| points.iter().map(|p| p[c]).sum::<f32>() / points.len() as f32);
            paint.contrast(mean) * light.at(circle.x, circle.y) >= 70.0
        });
        assert!(enough.count() >= 990);
    }

    #[test]
    fn shapes_reach_their_circle_and_stay_inside() {
        for label in 0..10 {
            for seed in 0..50 {
                let radius = 6.0 + seed as f32 / 2.0;
                let shape = Shape::new(label, radius, &mut Random::new(seed, RandomStream::Object));
                let farthest = (0..200 * 200)
                    .map(|i| [(i % 200) as f32 / 80.0 - 1.25, (i / 200) as f32 / 80.0 - 1.25])
                    .filter(|p| shape.distance(p[0], p[1]) < 0.0)
                    .map(|p| (p[0] * p[0] + p[1] * p[1]).sqrt())
                    .fold(0.0, f32::max);
                assert!((0.85..1.02).contains(&farthest), "{label} {seed}: {farthest}");
            }
        }
    }
}
