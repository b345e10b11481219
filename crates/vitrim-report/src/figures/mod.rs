//! The figures of a report, one file per subject.

pub mod costs;
pub mod curves;
pub mod fronts;
pub mod gallery;
pub mod keep_maps;
