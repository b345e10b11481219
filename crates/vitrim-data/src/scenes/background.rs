//! The background: noise in two colours, and patches of a pattern.

use super::canvas::Canvas;
use super::geometry::SIDE;
use super::paint::{hsv, triangle_wave};
use super::random::Random;

/// Draws the bare background.
pub(super) fn draw(random: &mut Random) -> Canvas {
    let base = hsv(random.unit(), random.range(0.0..0.7), random.range(0.25..0.9));
    let towards = [(); 3].map(|()| random.range(-60.0..60.0));
    let depth = random.range(4.0..20.0);
    let clouds = noise(random, [32, 16]);
    let grain = noise(random, [8, 4]);
    let colors = clouds.iter().zip(&grain).map(|(cloud, grain)| {
        [0, 1, 2].map(|c| (base[c] + towards[c] * cloud + depth * grain).clamp(5.0, 250.0))
    });
    let mut canvas = Canvas(colors.collect());
    for _ in 0..random.below(3) {
        pattern(random, &mut canvas);
    }
    canvas
}

/// Value noise in about -1 to 1, `[SIDE * SIDE]`: two lattices, the cells of the second half as strong.
fn noise(random: &mut Random, cells: [usize; 2]) -> Vec<f32> {
    let mut sum = vec![0.0; SIDE * SIDE];
    for (cell, strength) in cells.into_iter().zip([0.7, 0.35]) {
        add_lattice(random, cell, strength, &mut sum);
    }
    sum
}

/// Adds random values at the corners of cells of `cell` pixels, interpolated smoothly between them.
fn add_lattice(random: &mut Random, cell: usize, strength: f32, sum: &mut [f32]) {
    let corners = SIDE / cell + 1;
    let blend: Vec<f32> = (0..cell)
        .map(|i| {
            let t = (i as f32 + 0.5) / cell as f32;
            t * t * (3.0 - 2.0 * t)
        })
        .collect();
    let mut next_line = || -> Vec<f32> {
        let values: Vec<f32> = (0..corners).map(|_| random.range(-strength..strength)).collect();
        let between =
            |pair: &[f32]| blend.iter().map(|t| pair[0] + t * (pair[1] - pair[0])).collect::<Vec<_>>();
        values.windows(2).flat_map(between).collect()
    };
    let mut above = next_line();
    for rows in sum.chunks_mut(cell * SIDE) {
        let below = next_line();
        for (row, t) in rows.chunks_mut(SIDE).zip(&blend) {
            for ((value, above), below) in row.iter_mut().zip(&above).zip(&below) {
                *value += above + t * (below - above);
            }
        }
        above = below;
    }
}

/// Adds stripes or a checker that fade out from a centre.
fn pattern(random: &mut Random, canvas: &mut Canvas) {
    let [centre_x, centre_y] = [random.range(0.0..SIDE as f32), random.range(0.0..SIDE as f32)];
    let radius = random.range(15.0..50.0);
    let strength = random.range(8.0..22.0);
    let [along, across] = {
        let period = random.range(5.0..14.0);
        random.direction().map(|d| d / period)
    };
    let checker = random.chance(0.5);
    let rows = |centre: f32| (centre - radius).max(0.0) as usize..((centre + radius) as usize).min(SIDE);
    for row in rows(centre_y) {
        for column in rows(centre_x) {
            let (x, y) = ((column as f32 - centre_x), (row as f32 - centre_y));
            let fade = 1.0 - (x * x + y * y) / (radius * radius);
            if fade <= 0.0 {
                continue;
            }
            let stripes = triangle_wave(x * along + y * across);
            let wave = if checker { stripes * triangle_wave(y * along - x * across) } else { stripes };
            let change = strength * fade * wave;
            for channel in &mut canvas.0[row * SIDE + column] {
                *channel = (*channel + change).clamp(5.0, 250.0);
            }
        }
    }
}
