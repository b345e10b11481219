//! A figure: panels under one caption.

use std::error::Error;

use crate::error::{ReportError, Result};

/// Panels that belong together.
pub struct Figure {
    /// The panels, at least one.
    pub panels: Vec<Panel>,
    /// What the figure shows, and the number of its images.
    pub caption: String,
    /// The command that measured it.
    pub command: String,
}

/// A panel of a figure, with a text alternative.
pub enum Panel {
    /// A plot, which is also a separate file.
    Plot {
        /// File name without extension.
        name: String,
        alt: String,
        svg: String,
    },
    /// A PNG picture.
    Picture { alt: String, png: Vec<u8>, width: u32, height: u32, caption: String },
}

impl Panel {
    /// A panel from a drawn plot.
    ///
    /// # Errors
    /// If drawing failed.
    pub fn plot(name: impl Into<String>, alt: String, svg: Result<String, Box<dyn Error>>) -> Result<Panel> {
        let name = name.into();
        let svg =
            svg.map_err(|error| ReportError::Setting(format!("plot {name}: cannot be drawn: {error}")))?;
        Ok(Panel::Plot { name, alt, svg })
    }
}
