//! Methods whose numbers are fitted to unlabelled images.

use std::collections::BTreeMap;

use vitrim_data::{Dataset, OnBadImage};
use vitrim_prune::{FIT_IMAGES, Fit, KeepProfile, Method, Pruner};
use vitrim_vit::PixelBatch;

use crate::error::Result;
use crate::model::Loaded;
use crate::speed::bench_images::BenchImages;

/// The fits of methods to a backbone, each made once.
#[derive(Default)]
pub struct Fits {
    by_name: BTreeMap<&'static str, Fit>,
}

impl Fits {
    /// Fits those of `methods` that are fitted to `loaded`; `dataset` gives the images, if any of them needs images.
    ///
    /// # Errors
    /// If images are needed and cannot be read, according to `on_bad_image`, or there are none.
    pub fn of(
        methods: &[Method],
        loaded: &Loaded,
        dataset: Option<&Dataset>,
        on_bad_image: OnBadImage,
    ) -> Result<Self> {
        let mut fits = Fits::default();
        for method in methods.iter().filter(|method| method.is_fitted()) {
            match dataset {
                Some(dataset) => fits.add(*method, loaded, dataset, on_bad_image)?,
                None if method.needs_images(&loaded.spec) => (),
                None => fits.add_on(*method, loaded, PixelBatch::new(&[], 0))?,
            }
        }
        Ok(fits)
    }

    /// Adds the fit of `method`, unless it is there; some images of `dataset` are read if it needs images.
    ///
    /// # Errors
    /// As [`Fits::of`].
    pub fn add(
        &mut self,
        method: Method,
        loaded: &Loaded,
        dataset: &Dataset,
        on_bad_image: OnBadImage,
    ) -> Result<()> {
        if self.get(method).is_some() {
            return Ok(());
        }
        if !method.needs_images(&loaded.spec) {
            return self.add_on(method, loaded, PixelBatch::new(&[], 0));
        }
        let images = BenchImages::drawn(loaded, dataset, FIT_IMAGES, on_bad_image)?;
        self.add_on(method, loaded, images.batch())
    }

    /// Adds the fit of `method` to `pixels`.
    ///
    /// # Errors
    /// If it needs images and there are none, or they do not fit the backbone.
    pub fn add_on(&mut self, method: Method, loaded: &Loaded, pixels: PixelBatch<'_>) -> Result<()> {
        self.by_name.insert(method.name(), method.fit(&loaded.model, pixels)?);
        Ok(())
    }

    /// The fit of `method`, if it has been made.
    pub fn get(&self, method: Method) -> Option<&Fit> {
        self.by_name.get(method.name())
    }

    /// `method` at a keep profile of `loaded`; a fitted one at the same cost.
    ///
    /// # Errors
    /// As [`Method::at_shares`].
    pub fn at_shares(
        &self,
        method: Method,
        loaded: &Loaded,
        stages: &[usize],
        keep: &[f64],
    ) -> Result<Box<dyn Pruner>> {
        let spec = &loaded.spec;
        Ok(match self.get(method) {
            Some(fit) => fit.at_cost(KeepProfile::new(spec, stages, keep)?.macs(spec, 0)),
            None => method.at_shares(spec, stages, keep)?,
        })
    }
}
