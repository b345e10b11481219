//! A heat map: a value for each patch of a grid, in perceptually uniform colours, with a scale.

use std::error::Error;

use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use super::chart::{INK, SOFT_INK, TICK, WIDTH, font, title, units};
use super::numbers::round_step;

/// Height of the title's line, in pixels.
const TOP: f64 = 28.0;
const LEFT: f64 = 8.0;
const BELOW: f64 = 12.0;
/// Space right of the map for the scale.
const SCALE: f64 = 84.0;
/// Distance from the map to the scale's bar, and the bar's width.
const BAR: (f64, f64) = (18.0, 16.0);
/// Number of colours in the bar.
const SHADES: usize = 64;

/// Shares, row-major, and the range that the colours span.
pub struct HeatMap<'a> {
    pub title: String,
    pub rows: usize,
    pub columns: usize,
    /// The values, `[rows * columns]`.
    pub shares: &'a [f32],
    pub range: (f64, f64),
}

impl HeatMap<'_> {
    /// The map as an SVG document.
    ///
    /// # Errors
    /// If plotters returns an error.
    pub fn svg(&self) -> Result<String, Box<dyn Error>> {
        let map_width = WIDTH - LEFT - SCALE;
        let cell = map_width / self.columns as f64;
        let map_height = cell * self.rows as f64;
        let mut svg = String::new();
        let size = (units(WIDTH) as u32, units(TOP + map_height + BELOW) as u32);
        let root = SVGBackend::with_string(&mut svg, size).into_drawing_area();
        root.fill(&WHITE)?;
        root.draw(&Text::new(self.title.clone(), (units(LEFT), units(3.0)), title()))?;

        // Each patch is one pixel larger than its place and lies under its right and lower neighbours, to avoid
        // seams; it does not extend beyond `edge`, the right and lower end of the map.
        let patch = |x: f64, y: f64, (width, height): (f64, f64), edge: (f64, f64), colour: RGBColor| {
            let corner = ((x + width + 1.0).min(edge.0), (y + height + 1.0).min(edge.1));
            Rectangle::new([(units(x), units(y)), (units(corner.0), units(corner.1))], colour.filled())
        };
        let bottom = TOP + map_height;
        for (i, share) in self.shares.iter().enumerate() {
            let (row, column) = (i / self.columns, i % self.columns);
            let (x, y) = (LEFT + cell * column as f64, TOP + cell * row as f64);
            let edge = (LEFT + map_width, bottom);
            root.draw(&patch(x, y, (cell, cell), edge, self.colour(f64::from(*share))))?;
        }

        let (low, high) = self.range;
        let bar = LEFT + map_width + BAR.0;
        let shade = map_height / SHADES as f64;
        for i in 0..SHADES {
            let share = high - (high - low) * (i as f64 + 0.5) / SHADES as f64;
            let (y, edge) = (TOP + shade * i as f64, (bar + BAR.1, bottom));
            root.draw(&patch(bar, y, (BAR.1, shade), edge, self.colour(share)))?;
        }
        let step = round_step(high - low, 5);
        let (first, last) = ((low / step - 1e-9).ceil() as i32, (high / step + 1e-9).floor() as i32);
        for i in first..=last {
            let share = f64::from(i) * step;
            let y = units(bottom - map_height * (share - low) / (high - low));
            let x = bar + BAR.1;
            let mark = SOFT_INK.stroke_width(units(1.0) as u32);
            root.draw(&PathElement::new([(units(x), y), (units(x + 4.0), y)], mark))?;
            let text = font(TICK).color(&INK).pos(Pos::new(HPos::Left, VPos::Center));
            let percent = format!("{:.0} %", 100.0 * share);
            root.draw(&Text::new(percent, (units(x + 7.0), y), text))?;
        }
        root.present()?;
        drop(root);
        Ok(svg)
    }

    fn colour(&self, share: f64) -> RGBColor {
        let (low, high) = self.range;
        ViridisRGB.get_color_normalized(share.clamp(low, high) as f32, low as f32, high as f32)
    }
}
