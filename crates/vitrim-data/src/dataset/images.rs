//! The images of a data set: their names, their bytes, and their objects.

use std::ops::Range;
use std::sync::Arc;

use image::RgbImage;

use super::Dataset;
use crate::decoding::guarded;
use crate::error::DataError;
use crate::order::Order;
use crate::scenes::{Scene, draw_scene, object_shares, object_size};
use crate::sources::{Payload, Store};
use crate::walk::Walk;

impl Dataset {
    /// A short name of the image at `index`: its path below the split, its path in a list, `file.parquet#row`, or
    /// `shard.tar/member`. Empty if there is no such image.
    pub fn name(&self, index: usize) -> String {
        self.row(index).map(|row| self.index.store.name_of_row(row)).unwrap_or_default()
    }

    /// The generated image at `index`; `None` if this is not a data set of scenes or there is no such image.
    pub fn scene(&self, index: usize) -> Option<Scene> {
        self.seed(index).map(draw_scene)
    }

    /// The image at `index`, decoded at its full size. Meant for single images: a [`Loader`](crate::Loader)
    /// reads many.
    ///
    /// # Errors
    ///
    /// [`DataError::IndexOutOfRange`], or an error of reading or decoding.
    pub fn image(&self, index: usize) -> Result<RgbImage, DataError> {
        self.require_random_access("read at one place")?;
        let len = self.len();
        if index >= len {
            return Err(DataError::IndexOutOfRange { index, len });
        }
        let mut found = None;
        self.visit(Order::Sequential, index..index + 1, &mut |_, payload| {
            found = Some(guarded(|| self.origin(index), || self.decoded(index, payload)));
            true
        })?;
        found.unwrap_or(Err(DataError::IndexOutOfRange { index, len }))
    }

    /// Calls `sink` with the name of every image in turn, and its encoded bytes or a read error, until it returns
    /// false. A scene has no encoded bytes: those of its name are used.
    ///
    /// # Errors
    ///
    /// If the data set as a whole, not a single image, cannot be read.
    pub fn for_each_encoded(
        &self,
        sink: &mut dyn FnMut(String, Result<Arc<[u8]>, DataError>) -> bool,
    ) -> Result<(), DataError> {
        self.visit(Order::Sequential, 0..self.end(), &mut |index, payload| {
            sink(self.name(index), self.bytes(index, payload))
        })
    }

    /// Whether the place of the object in each image is known, as for scenes.
    pub fn knows_objects(&self) -> bool {
        matches!(self.index.store, Store::Scenes { .. })
    }

    /// Share of each square patch of the image at `index` that its object covers, `[N0]`, row-major; `None` if that
    /// is not known or there is no such image.
    pub fn object_shares(&self, index: usize, patch_size: usize) -> Option<Vec<f32>> {
        Some(object_shares(self.seed(index)?, patch_size))
    }

    /// Diameter of the object in the image at `index`, in pixels; `None` if that is not known or there is no such
    /// image.
    pub fn object_size(&self, index: usize) -> Option<f32> {
        Some(object_size(self.seed(index)?))
    }

    /// The seed of the scene at `index`.
    fn seed(&self, index: usize) -> Option<u64> {
        match &self.index.store {
            Store::Scenes { first_seed } => Some(first_seed + self.row(index)? as u64),
            _ => None,
        }
    }

    /// The image behind `payload`, which belongs to the image at `index`.
    pub(crate) fn decoded(&self, index: usize, payload: Payload) -> Result<RgbImage, DataError> {
        match payload {
            Payload::Scene(seed) => Ok(draw_scene(seed).image),
            payload => self.decoding.decode(&self.bytes(index, payload)?, &self.origin(index)),
        }
    }

    /// The encoded bytes behind `payload`, which belongs to the image at `index`; for a scene, the bytes of its name.
    pub(super) fn bytes(&self, index: usize, payload: Payload) -> Result<Arc<[u8]>, DataError> {
        self.index.store.bytes(payload, || self.origin(index))
    }

    /// Where to find the image at `index`: a path, a parquet file and row, or a tar shard and member.
    pub(crate) fn origin(&self, index: usize) -> String {
        self.row(index).map(|row| self.index.store.origin_of_row(row)).unwrap_or_default()
    }

    /// The end of the positions in an order that a pass can reach; for a stream, [`usize::MAX`].
    pub(crate) fn end(&self) -> usize {
        self.rows.len()
    }

    /// Calls `sink` with the images whose positions in `order` lie in `places`: see [`Walk::visit`].
    pub(crate) fn visit(
        &self,
        order: Order,
        places: Range<usize>,
        sink: &mut dyn FnMut(usize, Payload) -> bool,
    ) -> Result<(), DataError> {
        let class_in_stream = |name: &str, stated: Option<&str>| self.class_in_stream(name, stated);
        let walk = Walk { store: &self.index.store, rows: &self.rows, class_in_stream: &class_in_stream };
        walk.visit(order, places, sink)
    }
}
