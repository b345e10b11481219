//! A figure: panels under one caption.

use std::error::Error;

use crate::error::{ReportError, Result};

/// Panels that are read together.
pub struct Figure {
    /// One or more.
    pub panels: Vec<Panel>,
    /// What it shows, and on how many images.
    pub caption: String,
    /// The command that measured it.
    pub command: String,
}

/// A part of a figure, with its description for who does not see it.
pub enum Panel {
    /// A plot, which is also a file of its own.
    Plot {
        /// Its file's name, without ending.
        name: String,
        alt: String,
        svg: String,
    },
    /// A PNG.
    Picture { alt: String, png: Vec<u8>, width: u32, height: u32, caption: String },
}

impl Panel {
    /// A plot that was just drawn.
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
