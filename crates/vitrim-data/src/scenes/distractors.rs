//! Distractors: blobs, strokes, dots and fragments, none of which is of a class.
//!
//! Some have exactly the object's paint, so that colour alone does not identify the object; these do not touch it.
//! The others may lie partly under the object and contrast with it.

use std::ops::Range;

use super::canvas::Canvas;
use super::geometry::{Circle, SIDE};
use super::paint::Paint;
use super::random::{Random, direction};
use super::shapes::{Polygon, length};

/// Smallest colour distance, before lighting, between the object and a distractor of another paint.
const CONTRAST: f32 = 95.0;
/// Pixels between the object's circle and distractors of its paint.
const GAP: f32 = 3.0;
/// Objects of a smaller radius, in pixels, have no distractors under them if there is room elsewhere: little of their
/// outline would be visible.
const SMALL: f32 = 13.0;
const TRIES: usize = 12;

/// Draws 3 to 10 distractors around an object of `paint` in `object`.
pub(super) fn draw(random: &mut Random, canvas: &mut Canvas, object: Circle, paint: &Paint) {
    for _ in 0..3 + random.below(8) {
        let kind = random.below(5);
        let radius = match kind {
            // Strokes: half of the length.
            0 => random.range(8.0..30.0),
            1 => random.range(4.0..12.0),
            // Small ones are more common, but not so small that their shape is unclear.
            _ => 6.5 + 14.0 * random.unit() * random.unit(),
        };
        let alike = random.chance(0.45);
        let keeps_clear = alike || object.radius < SMALL;
        let (circle, paint) = match keeps_clear.then(|| clear_place(random, radius, object)).flatten() {
            Some(circle) if alike => (circle, *paint),
            Some(circle) => (circle, other_paint(random, radius, paint)),
            None => (place(random, radius), other_paint(random, radius, paint)),
        };
        match kind {
            0 => stroke(random, canvas, circle, &paint),
            1 => dots(random, canvas, circle, &paint),
            2 => fragment(random, canvas, circle, &paint),
            _ => blob(random, canvas, circle, &paint),
        }
    }
}

/// Anywhere with the centre in the image.
fn place(random: &mut Random, radius: f32) -> Circle {
    let side = 0.0..SIDE as f32;
    Circle { x: random.range(side.clone()), y: random.range(side), radius }
}

/// A place that does not touch the object, if there is room.
fn clear_place(random: &mut Random, radius: f32, object: Circle) -> Option<Circle> {
    (0..TRIES).map(|_| place(random, radius)).find(|circle| !circle.touches(object, GAP))
}

fn other_paint(random: &mut Random, radius: f32, paint: &Paint) -> Paint {
    let mut best = Paint::random(random, radius);
    for _ in 0..TRIES {
        if best.contrast_to(paint) >= CONTRAST {
            break;
        }
        let next = Paint::random(random, radius);
        if next.contrast_to(paint) > best.contrast_to(paint) {
            best = next;
        }
    }
    best
}

/// A closed curve r(angle) = r0 (1 + harmonics), far from round and without symmetry.
fn blob(random: &mut Random, canvas: &mut Canvas, circle: Circle, paint: &Paint) {
    // Cosine and sine amplitudes of the harmonics 2 to 5.
    let harmonics: [[f32; 2]; 4] = [0.16, 0.27, 0.18, 0.2].map(|strength| {
        let amplitude = strength * random.range(0.6..1.0);
        random.direction().map(|d| d * amplitude)
    });
    let mean = 0.62;
    canvas.fill(circle, paint, |x, y| {
        let from_centre = length([x, y]).max(1e-3);
        let unit = [x / from_centre, y / from_centre];
        let mut power = unit;
        let (mut radius, mut slope) = (1.0, 0.0);
        for (order, [a, b]) in (2..).zip(&harmonics) {
            power = [power[0] * unit[0] - power[1] * unit[1], power[0] * unit[1] + power[1] * unit[0]];
            radius += a * power[0] + b * power[1];
            slope += order as f32 * (b * power[0] - a * power[1]);
        }
        let (radius, slope) = (mean * radius.max(0.2), mean * slope);
        // The radial distance overestimates the distance to the edge where the curve is steep.
        (from_centre - radius) / length([1.0, slope / radius])
    });
}

/// A line 1 to 2.4 pixels wide and much longer, often curved.
fn stroke(random: &mut Random, canvas: &mut Canvas, circle: Circle, paint: &Paint) {
    let half = random.range(0.5..1.2f32).min(circle.radius / 9.0);
    let [cos, sin] = random.direction();
    let bend = if random.chance(0.6) { random.range(-0.9..0.9) } else { 0.0 };
    let pieces = if bend == 0.0 { 1 } else { 10 };
    // A parabola through two opposite points of the circle.
    let point = |i: usize| {
        let t = 2.0 * i as f32 / pieces as f32 - 1.0;
        let (along, across) = (circle.radius * t, circle.radius * bend * (0.5 - t * t));
        [circle.x + cos * along - sin * across, circle.y + sin * along + cos * across]
    };
    for i in 0..pieces {
        segment(canvas, point(i), point(i + 1), half, paint);
    }
}

fn segment(canvas: &mut Canvas, from: [f32; 2], to: [f32; 2], half: f32, paint: &Paint) {
    let reach = [0.5 * (to[0] - from[0]), 0.5 * (to[1] - from[1])];
    let radius = length(reach) + half;
    let circle = Circle { x: from[0] + reach[0], y: from[1] + reach[1], radius };
    let reach = reach.map(|r| r / radius);
    let inverse = 1.0 / (reach[0] * reach[0] + reach[1] * reach[1]);
    canvas.fill(circle, paint, |x, y| {
        let t = ((x * reach[0] + y * reach[1]) * inverse).clamp(-1.0, 1.0);
        length([x - t * reach[0], y - t * reach[1]]) - half / radius
    });
}

/// 4 to 14 dots, up to 3 pixels across.
fn dots(random: &mut Random, canvas: &mut Canvas, circle: Circle, paint: &Paint) {
    for _ in 0..4 + random.below(11) {
        let [cos, sin] = random.direction();
        let off = circle.radius * random.unit().sqrt();
        let radius = random.range(0.7..1.5);
        let dot = Circle { x: circle.x + cos * off, y: circle.y + sin * off, radius };
        canvas.fill(dot, paint, |x, y| length([x, y]) - 1.0);
    }
}

/// Half of a random polygon, torn off along a ragged line.
fn fragment(random: &mut Random, canvas: &mut Canvas, circle: Circle, paint: &Paint) {
    let (start, arc) = (random.unit(), random.range(0.4..0.55));
    let mut corners = ring(random, start, start + arc, 5, 0.55..1.0);
    corners.extend(ragged(random, corners[4], corners[0]));
    let polygon = Polygon::new(&corners);
    canvas.fill(circle, paint, |x, y| polygon.distance([x, y]));
}

/// `count` corners at growing angles, in turns, and random distances from the centre.
fn ring(random: &mut Random, from: f32, to: f32, count: usize, radii: Range<f32>) -> Vec<[f32; 2]> {
    (0..count)
        .map(|i| {
            let turns = from + (to - from) * i as f32 / (count - 1) as f32;
            let radius = random.range(radii.clone());
            direction(turns).map(|d| d * radius)
        })
        .collect()
}

/// Teeth along the line from one corner to another.
fn ragged(random: &mut Random, from: [f32; 2], to: [f32; 2]) -> Vec<[f32; 2]> {
    let way = [to[0] - from[0], to[1] - from[1]];
    (1..6)
        .map(|i| {
            let along = i as f32 / 6.0;
            let side = if i % 2 == 0 { 1.0 } else { -1.0 };
            let tooth = side * random.range(0.05..0.22);
            [from[0] + along * way[0] - tooth * way[1], from[1] + along * way[1] + tooth * way[0]]
        })
        .collect()
}
