//! Sizes and places in a scene.

/// The width and height of a scene in pixels.
pub const SCENE_SIDE: u32 = 96;

pub(super) const SIDE: usize = SCENE_SIDE as usize;

/// A box of pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The first column.
    pub left: u32,
    /// The first row.
    pub top: u32,
    /// The column after the last.
    pub right: u32,
    /// The row after the last.
    pub bottom: u32,
}

/// A circle in pixels; the centre of pixel (0, 0) lies at (0.5, 0.5).
#[derive(Clone, Copy)]
pub(super) struct Circle {
    pub(super) x: f32,
    pub(super) y: f32,
    pub(super) radius: f32,
}

impl Circle {
    /// Whether less than `gap` pixels lie between the circles.
    pub(super) fn touches(&self, other: Self, gap: f32) -> bool {
        let (x, y) = (self.x - other.x, self.y - other.y);
        let reach = self.radius + other.radius + gap;
        x * x + y * y < reach * reach
    }
}
