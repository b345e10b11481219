//! Converts SVG to PNG with a bundled font, so that the result is the same on every machine.

use std::error::Error;
use std::sync::Arc;

use resvg::tiny_skia::{Pixmap, Transform};
use resvg::usvg::{Options, Tree, fontdb};

/// Width of the pictures, in pixels.
const WIDTH: f32 = 1200.0;

/// The typeface is light: an outline makes it regular, and titles bold.
const WEIGHT: &str =
    "text { stroke: #333; stroke-width: 0.02em } text[font-weight=bold] { stroke-width: 0.07em }";

/// Renders SVG documents.
pub struct Rasteriser {
    options: Options<'static>,
}

impl Rasteriser {
    /// A rasteriser with the Ubuntu typeface.
    pub fn new() -> Self {
        let mut fonts = fontdb::Database::new();
        fonts.load_font_data(epaint_default_fonts::UBUNTU_LIGHT.to_vec());
        let family = fonts.faces().next().and_then(|face| face.families.first().cloned());
        if let Some((family, _)) = family {
            fonts.set_sans_serif_family(family);
        }
        Rasteriser {
            options: Options {
                fontdb: Arc::new(fonts),
                style_sheet: Some(WEIGHT.to_owned()),
                ..Options::default()
            },
        }
    }

    /// `svg` as a PNG of 1200 pixels in width.
    ///
    /// # Errors
    /// If it is not a valid SVG document.
    pub fn png(&self, svg: &str) -> Result<Vec<u8>, Box<dyn Error>> {
        let tree = Tree::from_str(svg, &self.options)?;
        let scale = WIDTH / tree.size().width();
        let height = (tree.size().height() * scale).round() as u32;
        let mut pixels = Pixmap::new(WIDTH as u32, height).ok_or("a plot without a size")?;
        resvg::render(&tree, Transform::from_scale(scale, scale), &mut pixels.as_mut());
        Ok(pixels.encode_png()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_are_drawn_without_any_system_font() {
        let svg = |text: &str| {
            format!(
                r#"<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 300 60" width="300" height="60">
                <text x="10" y="40" font-family="sans-serif" font-size="40">{text}</text></svg>"#
            )
        };
        let rasteriser = Rasteriser::new();
        let (with, without) = (rasteriser.png(&svg("drop")).unwrap(), rasteriser.png(&svg("")).unwrap());
        assert!(with.starts_with(b"\x89PNG"));
        let inked = |png: &[u8]| {
            let image = image::load_from_memory(png).unwrap().to_rgba8();
            assert_eq!(image.dimensions(), (1200, 240));
            image.pixels().filter(|pixel| pixel.0[3] > 128).count()
        };
        assert_eq!(inked(&without), 0);
        assert!(inked(&with) > 2000, "{}", inked(&with));
        assert!(rasteriser.png("<svg").is_err());
    }
}
