//! Pictures of a pruner's decisions: the image, and one panel per stage in which pruned patches are faded and hatched.

use image::imageops::{self, FilterType};
use image::{Rgb, RgbImage};
use noto_sans_mono_bitmap::{FontWeight, RasterHeight, get_raster, get_raster_width};

/// Panels are enlarged by an integer factor up to at least this width, in pixels.
const PANEL: u32 = 224;
/// Distance between panels, and margin around all of them, in pixels.
const GAP: u32 = 10;
/// Distance from a panel to its caption, in pixels.
const CAPTION_GAP: u32 = 5;
/// Largest number of panels in a row.
const PANELS_A_ROW: usize = 6;
const FONT: RasterHeight = RasterHeight::Size16;
const WEIGHT: FontWeight = FontWeight::Regular;

/// A patch has one diagonal line, whose width is this part of the patch's.
const HATCH: u32 = 12;

const PAPER: Rgb<u8> = Rgb([255, 255, 255]);
/// Colour of the diagonal lines, which no grey photo has.
const PRUNED: Rgb<u8> = Rgb([214, 64, 159]);
const INK: Rgb<u8> = Rgb([51, 51, 51]);

/// A picture that cannot be drawn.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PictureError {
    /// The patches do not tile the image.
    #[error(
        "an image of {width} x {height} pixels is not tiled by patches of {patch_size}; give the crop that the model sees"
    )]
    Patches {
        /// Width of the image, in pixels.
        width: u32,
        /// Height of the image, in pixels.
        height: u32,
        /// Width and height of a patch, in pixels.
        patch_size: u32,
    },
    /// A survivor's position lies outside the grid.
    #[error(
        "stage {stage} keeps position {position} of a grid of {patches} patches; use the grid of this image"
    )]
    Position {
        /// The stage, counted from 1.
        stage: usize,
        /// The grid position.
        position: usize,
        /// Number of patches of the grid.
        patches: usize,
    },
    /// The number of captions is not that of the panels.
    #[error("{captions} captions for {panels} panels; give one for the image and one for each stage")]
    Captions {
        /// Number of captions.
        captions: usize,
        /// Number of panels: the image and the stages.
        panels: usize,
    },
}

/// The default captions: `dense: 64 patches`, `stage 1: 45 of 64`, one for the image and one for each stage. `kept`:
/// grid positions that survive each stage, `[K][survivors]`; `patches`: N0.
pub fn captions(kept: &[Vec<usize>], patches: usize) -> Vec<String> {
    let stage = |(k, kept): (usize, &Vec<usize>)| format!("stage {}: {} of {patches}", k + 1, kept.len());
    let stages = kept.iter().enumerate().map(stage);
    std::iter::once(format!("dense: {patches} patches")).chain(stages).collect()
}

/// N0 of an image whose crop is `image`, in patches of `patch_size` pixels.
pub(crate) fn patches_of(image: &RgbImage, patch_size: u32) -> usize {
    (image.height() / patch_size * (image.width() / patch_size)) as usize
}

/// The image, and next to it the image after each stage, with pruned patches faded to grey and crossed by a coloured line.
///
/// `image`: the crop that the model sees, `[H, W, 3]`; `patch_size`: in pixels of that crop; `kept`:
/// grid positions (row-major) that survive each stage, `[K][survivors]`; `captions`: one line under
/// each panel, `[1 + K]`, see [`captions`]. Images below 224 pixels are enlarged by a whole factor,
/// with nearest neighbour. A caption wider than its panel is cut; letters outside basic Latin
/// become `?`.
///
/// # Errors
/// [`PictureError`] when patches, positions or captions do not fit the image.
pub fn kept_tokens(
    image: &RgbImage,
    patch_size: u32,
    kept: &[Vec<usize>],
    captions: &[String],
) -> Result<RgbImage, PictureError> {
    let (width, height) = image.dimensions();
    let tiled = patch_size > 0 && width > 0 && height > 0;
    if !tiled || width % patch_size != 0 || height % patch_size != 0 {
        return Err(PictureError::Patches { width, height, patch_size });
    }
    if captions.len() != 1 + kept.len() {
        return Err(PictureError::Captions { captions: captions.len(), panels: 1 + kept.len() });
    }
    let grid = Grid::new(image, patch_size);
    let mut panels = vec![grid.image.clone()];
    for (k, kept) in kept.iter().enumerate() {
        panels.push(grid.panel(k + 1, kept)?);
    }
    Ok(sheet(&panels, captions))
}

/// The enlarged image, its patches and its faded copy.
struct Grid {
    image: RgbImage,
    faded: RgbImage,
    /// Width and height of a patch, in enlarged pixels.
    patch: u32,
    columns: u32,
    patches: usize,
}

impl Grid {
    fn new(image: &RgbImage, patch_size: u32) -> Grid {
        let factor = PANEL.div_ceil(image.width().min(image.height()));
        let (width, height) = (factor * image.width(), factor * image.height());
        let image = imageops::resize(image, width, height, FilterType::Nearest);
        let patch = factor * patch_size;
        let columns = width / patch;
        Grid {
            faded: fade(&image, patch),
            image,
            patch,
            columns,
            patches: (columns * (height / patch)) as usize,
        }
    }

    /// The panel of a stage.
    fn panel(&self, stage: usize, kept: &[usize]) -> Result<RgbImage, PictureError> {
        let mut alive = vec![false; self.patches];
        for &position in kept {
            *alive.get_mut(position).ok_or(PictureError::Position {
                stage,
                position,
                patches: self.patches,
            })? = true;
        }
        let mut panel = self.faded.clone();
        for (x, y, pixel) in panel.enumerate_pixels_mut() {
            let position = (y / self.patch) * self.columns + x / self.patch;
            if alive[position as usize] {
                *pixel = *self.image.get_pixel(x, y);
            }
        }
        Ok(panel)
    }
}

/// A pale grey copy of the image with thin white lines between its patches of `patch` pixels and a coloured diagonal line
/// through each, so that a pruned patch cannot be confused with a kept one that is pale and grey, as all are in a grey
/// photo of fog.
fn fade(image: &RgbImage, patch: u32) -> RgbImage {
    let mut faded = image.clone();
    let line = (patch / HATCH).max(1);
    for (x, y, pixel) in faded.enumerate_pixels_mut() {
        let [r, g, b] = pixel.0.map(u32::from);
        let grey = (299 * r + 587 * g + 114 * b) / 1000;
        let pale = Rgb([(176 + 48 * grey / 255) as u8; 3]);
        *pixel = match (x % patch, y % patch) {
            (0, _) | (_, 0) => PAPER,
            (x, y) if (x + y) % patch < line => PRUNED,
            _ => pale,
        };
    }
    faded
}

/// Panels in rows on a white background, each above its caption.
fn sheet(panels: &[RgbImage], captions: &[String]) -> RgbImage {
    let rows = panels.len().div_ceil(PANELS_A_ROW);
    let columns = panels.len().div_ceil(rows);
    let (width, height) = panels[0].dimensions();
    let cell_height = height + CAPTION_GAP + FONT.val() as u32 + GAP;
    let mut sheet =
        RgbImage::from_pixel(GAP + columns as u32 * (width + GAP), GAP + rows as u32 * cell_height, PAPER);
    for (i, (panel, caption)) in panels.iter().zip(captions).enumerate() {
        let x = GAP + (i % columns) as u32 * (width + GAP);
        let y = GAP + (i / columns) as u32 * cell_height;
        imageops::replace(&mut sheet, panel, i64::from(x), i64::from(y));
        write_line(&mut sheet, caption, x, y + height + CAPTION_GAP, width);
    }
    sheet
}

/// Writes `line`, centred in the `width` pixels right of `x`, with its upper edge at `y`.
fn write_line(sheet: &mut RgbImage, line: &str, x: u32, y: u32, width: u32) {
    let advance = get_raster_width(WEIGHT, FONT) as u32;
    let letters: Vec<char> = line.chars().take((width / advance) as usize).collect();
    let left = x + (width - advance * letters.len() as u32) / 2;
    for (i, letter) in (0u32..).zip(letters) {
        let glyph = get_raster(letter, WEIGHT, FONT).or_else(|| get_raster('?', WEIGHT, FONT));
        let Some(glyph) = glyph else { continue };
        for (dy, row) in (0u32..).zip(glyph.rows()) {
            for (dx, &strength) in (0u32..).zip(row) {
                let pixel = sheet.get_pixel_mut(left + i * advance + dx, y + dy);
                *pixel = mix(*pixel, INK, strength);
            }
        }
    }
}

/// Mixes two colours: `strength` 0 gives `from`, 255 gives `to`.
fn mix(from: Rgb<u8>, to: Rgb<u8>, strength: u8) -> Rgb<u8> {
    let s = u32::from(strength);
    let channel = |i: usize| {
        let (from, to) = (u32::from(from.0[i]), u32::from(to.0[i]));
        (((255 - s) * from + s * to) / 255) as u8
    };
    Rgb(std::array::from_fn(channel))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gradient(width: u32, height: u32) -> RgbImage {
        RgbImage::from_fn(width, height, |x, y| Rgb([(x * 7) as u8, (y * 5) as u8, 90]))
    }

    #[test]
    fn kept_patches_keep_their_colours_and_pruned_ones_turn_pale_and_are_crossed() {
        let image = gradient(224, 224);
        let kept = vec![vec![0, 17]];
        let picture = kept_tokens(&image, 16, &kept, &captions(&kept, 196)).unwrap();
        let second = GAP + PANEL + GAP;
        for y in 0..224 {
            for x in 0..224 {
                assert_eq!(picture.get_pixel(GAP + x, GAP + y), image.get_pixel(x, y));
                let Rgb([r, g, b]) = *picture.get_pixel(second + x, GAP + y);
                let position = (y / 16) * 14 + x / 16;
                if position == 0 || position == 17 {
                    assert_eq!([r, g, b], image.get_pixel(x, y).0);
                } else {
                    let crossed = [r, g, b] == PRUNED.0;
                    assert!(crossed || r == g && g == b && r >= 150, "{x} {y}");
                }
            }
        }
    }

    /// In grey photos, pale ones among them, a pruned patch has a colour and a kept one has none.
    #[test]
    fn pruned_patches_differ_from_kept_ones_in_grey_photos() {
        for (size, patch_size) in [(224, 16), (32, 4), (224, 14)] {
            let image = RgbImage::from_fn(size, size, |x, y| Rgb([(176 + (x + 3 * y) % 48) as u8; 3]));
            let columns = (size / patch_size) as usize;
            let kept = vec![(0..columns * columns).filter(|position| position % 3 == 0).collect::<Vec<_>>()];
            let picture =
                kept_tokens(&image, patch_size, &kept, &captions(&kept, columns * columns)).unwrap();
            let factor = 224 / size;
            let (left, patch) = (GAP + 224 + GAP, factor * patch_size);
            for position in 0..columns * columns {
                let (row, column) = ((position / columns) as u32, (position % columns) as u32);
                let pixels = (0..patch).flat_map(|y| (0..patch).map(move |x| (x, y)));
                let coloured = pixels
                    .filter(|(x, y)| {
                        let (x, y) = (left + column * patch + x, GAP + row * patch + y);
                        let Rgb([r, g, b]) = *picture.get_pixel(x, y);
                        r != g || g != b
                    })
                    .count();
                let least = if position % 3 == 0 { 0 } else { patch as usize - 1 };
                assert!(coloured >= least, "patch {position} of {size}: {coloured}");
                assert!(position % 3 != 0 || coloured == 0, "patch {position} is kept");
            }
        }
    }

    #[test]
    fn small_images_are_enlarged_and_many_stages_take_several_rows() {
        let image = gradient(32, 32);
        let kept = vec![(0..45).collect::<Vec<_>>(); 3];
        let picture = kept_tokens(&image, 4, &kept, &captions(&kept, 64)).unwrap();
        assert_eq!(picture.width(), GAP + 4 * (224 + GAP));
        assert_eq!(picture.get_pixel(GAP + 223, GAP + 223), image.get_pixel(31, 31));

        let kept = vec![vec![]; 12];
        let picture = kept_tokens(&image, 4, &kept, &captions(&kept, 64)).unwrap();
        assert_eq!(picture.width(), GAP + 5 * (224 + GAP));
        assert_eq!(picture.height(), GAP + 3 * (224 + 5 + 16 + GAP));
    }

    #[test]
    fn captions_count_survivors_and_are_drawn() {
        let kept = vec![(0..45).collect(), vec![1, 2]];
        let lines = captions(&kept, 64);
        assert_eq!(lines[1..], ["stage 1: 45 of 64", "stage 2: 2 of 64"]);
        let image = gradient(32, 32);
        let mut long = lines.clone();
        long[2] = "\u{65e5} ".repeat(80);
        let picture = kept_tokens(&image, 4, &kept, &long).unwrap();
        let strip = |panel: u32| {
            let left = GAP + panel * (224 + GAP);
            let dark = |x: &u32| (0..16).any(|y| picture.get_pixel(*x, 239 + y).0[0] < 128);
            (left..left + 224).filter(dark).count()
        };
        assert!(strip(1) > 50 && strip(2) > 50);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let image = gradient(32, 30);
        let lines = captions(&[], 64);
        let error = kept_tokens(&image, 4, &[], &lines).unwrap_err();
        assert!(matches!(error, PictureError::Patches { .. }));
        assert!(kept_tokens(&image, 0, &[], &lines).is_err());
        let image = gradient(32, 32);
        let kept = vec![vec![64]];
        let error = kept_tokens(&image, 4, &kept, &captions(&kept, 64)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "stage 1 keeps position 64 of a grid of 64 patches; use the grid of this image"
        );
        let error = kept_tokens(&image, 4, &kept, &lines).unwrap_err();
        assert!(matches!(error, PictureError::Captions { .. }));
    }
}
