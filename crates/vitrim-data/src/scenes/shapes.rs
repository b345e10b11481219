//! The ten silhouettes, as signed distances in the unit circle.
//!
//! Parts have a minimum width in pixels, so that the smallest objects can still be recognised. Distances follow Inigo
//! Quilez, <https://iquilezles.org/articles/distfunctions2d/>.

use super::random::{Random, direction};

type Point = [f32; 2];

/// Pixels across the thinnest part of any object.
const LEAST_WIDTH: f32 = 2.6;

/// Largest rotation of an object from upright, in turns: 36 degrees.
const TURN: f32 = 0.1;

/// An object's silhouette: an outline, rotated and slightly squashed.
pub(super) struct Shape {
    outline: Outline,
    turn: Point,
    /// Factor on the outline's y, at most 1.
    squash: f32,
}

enum Outline {
    Disk,
    /// Radius of the hole.
    Ring(f32),
    /// The unit disk without a disk of this radius, whose centre is shifted to the right by the given distance.
    Crescent {
        radius: f32,
        offset: f32,
    },
    /// Two disks of radius 1/2 above the polygon that joins them with the tip below.
    Heart(Polygon),
    Polygon(Polygon),
}

impl Shape {
    /// The shape of class `label` for a circle of `radius` pixels.
    pub(super) fn new(label: u32, radius: f32, random: &mut Random) -> Self {
        // Half of the least width, in units of the radius.
        let least = 0.5 * LEAST_WIDTH / radius;
        let outline = match label {
            0 => Outline::Disk,
            1 => Outline::Ring(random.range(0.5..0.64).min(1.0 - 2.0 * least)),
            2 => triangle(random),
            3 => bar(random, least),
            4 => cross(random, least),
            5 => star(random),
            6 => Outline::Crescent { radius: random.range(0.76..0.84), offset: random.range(0.42..0.5) },
            7 => ell(random, least),
            8 => heart(random),
            _ => hourglass(random, least),
        };
        Self { outline, turn: direction(0.5 + random.range(-TURN..TURN)), squash: random.range(0.88..1.0) }
    }

    /// The signed distance of (`x`, `y`) from the edge, negative inside.
    pub(super) fn distance(&self, x: f32, y: f32) -> f32 {
        let [cos, sin] = self.turn;
        let p = [cos * x + sin * y, (cos * y - sin * x) / self.squash];
        match &self.outline {
            Outline::Disk => length(p) - 1.0,
            Outline::Ring(hole) => {
                let from_centre = length(p);
                (from_centre - 1.0).max(hole - from_centre)
            }
            Outline::Crescent { radius, offset } => {
                (length(p) - 1.0).max(radius - length([p[0] - offset, p[1]]))
            }
            Outline::Heart(body) => {
                let lobe = length([p[0].abs() - 0.5, p[1]]) - 0.5;
                lobe.min(body.distance(p))
            }
            Outline::Polygon(polygon) => polygon.distance(p),
        }
    }
}

fn triangle(random: &mut Random) -> Outline {
    let height = random.range(1.5..1.9);
    fitted(&[[-1.0, 0.0], [1.0, 0.0], [0.0, height]])
}

fn bar(random: &mut Random, least: f32) -> Outline {
    let half = random.range(0.24..0.32).max(least);
    fitted(&[[-1.0, -half], [1.0, -half], [1.0, half], [-1.0, half]])
}

fn cross(random: &mut Random, least: f32) -> Outline {
    let h = random.range(0.27..0.36).max(1.05 * least);
    fitted(&[
        [-1.0, -h],
        [-h, -h],
        [-h, -1.0],
        [h, -1.0],
        [h, -h],
        [1.0, -h],
        [1.0, h],
        [h, h],
        [h, 1.0],
        [-h, 1.0],
        [-h, h],
        [-1.0, h],
    ])
}

fn star(random: &mut Random) -> Outline {
    let inner = random.range(0.38..0.46);
    let corners: Vec<Point> =
        (0..10).map(|i| direction(i as f32 / 10.0).map(|d| if i % 2 == 0 { d } else { inner * d })).collect();
    Outline::Polygon(Polygon::new(&corners))
}

fn ell(random: &mut Random, least: f32) -> Outline {
    let (foot, width) = (random.range(0.7..0.85), random.range(0.25..0.32).max(1.3 * least));
    fitted(&[[0.0, 0.0], [foot, 0.0], [foot, width], [width, width], [width, 1.0], [0.0, 1.0]])
}

/// The lobes at (-1/2, 0) and (1/2, 0) touch at the origin. The tangents from the tip at (0, -depth) touch them at
/// the mirror images of the origin.
fn heart(random: &mut Random) -> Outline {
    let depth = random.range(0.92..1.02);
    let normal = [2.0, -1.0 / depth];
    let scale = 2.0 / (normal[0] * normal[0] + normal[1] * normal[1]);
    let touch = normal.map(|n| n * scale);
    Outline::Heart(Polygon::new(&[[0.0, -depth], touch, [0.5, 0.0], [-0.5, 0.0], [-touch[0], touch[1]]]))
}

fn hourglass(random: &mut Random, least: f32) -> Outline {
    let (wide, waist) = (random.range(0.72..0.88), random.range(0.14..0.2).max(1.25 * least));
    fitted(&[[-wide, -1.0], [wide, -1.0], [waist, 0.0], [wide, 1.0], [-wide, 1.0], [-waist, 0.0]])
}

/// The polygon, moved and scaled into the unit circle.
fn fitted(corners: &[Point]) -> Outline {
    let ends = |axis: usize| {
        let along = corners.iter().map(|corner| corner[axis]);
        (along.clone().fold(f32::INFINITY, f32::min), along.fold(f32::NEG_INFINITY, f32::max))
    };
    let centre = [ends(0), ends(1)].map(|(low, high)| 0.5 * (low + high));
    let moved: Vec<Point> = corners.iter().map(|c| [c[0] - centre[0], c[1] - centre[1]]).collect();
    let radius = moved.iter().map(|corner| length(*corner)).fold(0.0, f32::max);
    let scaled: Vec<Point> = moved.iter().map(|corner| corner.map(|c| c / radius)).collect();
    Outline::Polygon(Polygon::new(&scaled))
}

/// A closed polygon without crossings.
pub(super) struct Polygon(Vec<Edge>);

struct Edge {
    start: Point,
    to_end: Point,
    /// 1 / squared length.
    inverse: f32,
    /// Change of x per change of y; unused for horizontal edges.
    lean: f32,
}

impl Polygon {
    pub(super) fn new(corners: &[Point]) -> Self {
        let next = corners.iter().cycle().skip(1);
        let edges = corners.iter().zip(next).map(|(start, end)| {
            let to_end = [end[0] - start[0], end[1] - start[1]];
            let inverse = 1.0 / (to_end[0] * to_end[0] + to_end[1] * to_end[1]);
            Edge { start: *start, to_end, inverse, lean: to_end[0] / to_end[1] }
        });
        Self(edges.collect())
    }

    pub(super) fn distance(&self, p: Point) -> f32 {
        let (mut nearest, mut inside) = (f32::INFINITY, false);
        for edge in &self.0 {
            let from = [p[0] - edge.start[0], p[1] - edge.start[1]];
            let along = (from[0] * edge.to_end[0] + from[1] * edge.to_end[1]) * edge.inverse;
            let along = along.clamp(0.0, 1.0);
            let off = [from[0] - along * edge.to_end[0], from[1] - along * edge.to_end[1]];
            nearest = nearest.min(off[0] * off[0] + off[1] * off[1]);
            // Whether a ray to the right crosses the edge.
            let spans = (from[1] < 0.0) != (from[1] < edge.to_end[1]);
            inside ^= spans && from[0] < edge.lean * from[1];
        }
        if inside { -nearest.sqrt() } else { nearest.sqrt() }
    }
}

pub(super) fn length(p: Point) -> f32 {
    (p[0] * p[0] + p[1] * p[1]).sqrt()
}
