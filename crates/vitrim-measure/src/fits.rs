//! Methods whose numbers are fitted to unlabelled images, and policies whose stages are balanced on them.

use std::collections::BTreeMap;

use vitrim_data::{Dataset, Loader, LoaderOptions, OnBadImage, Order, Subset};
use vitrim_prune::policy::{BALANCE_IMAGES, balance};
use vitrim_prune::{FIT_IMAGES, Fit, FitPoint, KeepProfile, LEAST_FIT_IMAGES, Method, Policy, Pruner, Tell};
use vitrim_vit::PixelBatch;

use crate::error::{MeasureError, Result};
use crate::images::DataParts;
use crate::model::Loaded;
use crate::progress::Listener;
use crate::seen::{SeenImages, hashes_at};

/// The fits of methods to a backbone, each made once.
#[derive(Default)]
pub struct Fits {
    by_name: BTreeMap<&'static str, Fit>,
}

impl Fits {
    /// Fits those of `methods` that are fitted to `loaded`; `dataset` gives the images, if any of them needs images.
    ///
    /// # Errors
    /// If images are needed and cannot be read, according to `on_bad_image`, or there are none; or errors of `tell`.
    pub fn of(
        methods: &[Method],
        loaded: &Loaded,
        dataset: Option<&Dataset>,
        on_bad_image: OnBadImage,
        tell: Tell<'_>,
    ) -> Result<Self> {
        let mut fits = Fits::default();
        for method in methods.iter().filter(|method| method.is_fitted()) {
            match dataset {
                Some(dataset) => fits.add(*method, loaded, dataset, on_bad_image, tell)?,
                None if method.needs_images(&loaded.spec) => (),
                None => fits.add_on(*method, loaded, PixelBatch::new(&[], 0), tell)?,
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
        tell: Tell<'_>,
    ) -> Result<()> {
        if self.get(method).is_some() {
            return Ok(());
        }
        if !method.needs_images(&loaded.spec) {
            return self.add_on(method, loaded, PixelBatch::new(&[], 0), tell);
        }
        let images = Drawn::of(loaded, dataset, FIT_IMAGES, on_bad_image)?;
        self.add_on(method, loaded, images.batch(), tell)
    }

    /// Adds the fit of `method` to `pixels`.
    ///
    /// # Errors
    /// If it needs images and there are none, or they do not fit the backbone; or errors of `tell`.
    pub fn add_on(
        &mut self,
        method: Method,
        loaded: &Loaded,
        pixels: PixelBatch<'_>,
        tell: Tell<'_>,
    ) -> Result<()> {
        self.by_name.insert(method.name(), method.fit(&loaded.model, pixels, tell)?);
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

/// The points of the fit of `method` to `loaded`, and the record of the images that it saw: training images of `parts` that
/// are neither among `certifying` nor held out for the final figures. A method that needs no images sees none.
///
/// # Errors
/// If images are needed and there are fewer than [`LEAST_FIT_IMAGES`], or they cannot be read, according to `on_bad_image`; or if
/// it was asked to stop.
pub fn fit_apart(
    method: Method,
    loaded: &Loaded,
    (parts, certifying): (&DataParts, &Dataset),
    on_bad_image: OnBadImage,
    listener: &mut Listener<'_>,
) -> Result<(Vec<FitPoint>, SeenImages)> {
    if !method.is_fitted() {
        return Ok((Vec::new(), SeenImages::default()));
    }
    if !method.needs_images(&loaded.spec) {
        listener.note(&at_published_numbers(method));
        let fit = method.fit(&loaded.model, PixelBatch::new(&[], 0), &mut |_, _| Ok(()))?;
        return Ok((fit.points().to_vec(), SeenImages::default()));
    }
    let pool = pool(method, parts, certifying, listener)?;
    let images = pool.len().min(method.fit_images());
    listener.note(&format!("{method}: fitting to {images} images of train, none of which certifies"));
    let images = Drawn::of(loaded, &pool, images, on_bad_image)?;
    if images.indices.len() < LEAST_FIT_IMAGES {
        return Err(too_few(method, parts, images.indices.len()));
    }
    let fit = listener
        .follow("fitting", |progress| method.fit(&loaded.model, images.batch(), &mut progress.tell()))?;
    let hashes =
        hashes_at(&pool, &images.indices, &mut listener.steps("hashing images"))?.unwrap_or_default();
    Ok((fit.points().to_vec(), SeenImages::default().trained_on(&hashes)))
}

/// What is said of a `method` whose authors published numbers for the backbone's geometry.
pub fn at_published_numbers(method: Method) -> String {
    format!("{method}: at the numbers that its authors published for this geometry, whatever the weights")
}

/// The images of `parts` that `method` may be fitted to if `certifying` certify.
fn pool(
    method: Method,
    parts: &DataParts,
    certifying: &Dataset,
    listener: &mut Listener<'_>,
) -> Result<Dataset> {
    if !parts.has(Subset::Train) {
        return Err(too_few(method, parts, 0));
    }
    if certifying.is_stream() {
        let reason = format!(
            "is read front to back, so that the images that {method} is fitted to cannot be kept apart; save it to files, \
             decompressed (.tar)"
        );
        return Err(MeasureError::Part { data: parts.path(), reason });
    }
    let pool = training_images(parts, certifying, listener)?;
    match pool.len() < LEAST_FIT_IMAGES {
        true => Err(too_few(method, parts, pool.len())),
        false => Ok(pool),
    }
}

/// The training images of `parts` that are neither among `certifying` nor held out for the final figures.
fn training_images(parts: &DataParts, certifying: &Dataset, listener: &mut Listener<'_>) -> Result<Dataset> {
    let progress = &mut listener.steps("hashing images");
    let held_out = parts.held_out(Some(certifying), progress)?;
    Ok(parts.part(Subset::Train, progress)?.without(&held_out, progress)?.0)
}

/// Finds offsets of the stages of `policy` ([`balance`]) on training images of `parts` that are neither among `certifying`
/// nor held out. Where there are none, the policy stays as it is, and that is said. These images are not put on record as
/// training images: those of the actor's own training are not known, and the record must not seem complete.
///
/// # Errors
/// If images cannot be read, according to `on_bad_image`, or it was asked to stop.
pub fn balance_apart(
    policy: &mut Policy,
    loaded: &Loaded,
    (parts, certifying): (&DataParts, &Dataset),
    on_bad_image: OnBadImage,
    listener: &mut Listener<'_>,
) -> Result<()> {
    let pool = match parts.has(Subset::Train) && !certifying.is_stream() {
        true => Some(training_images(parts, certifying, listener)?).filter(|pool| !pool.is_empty()),
        false => None,
    };
    let Some(pool) = pool else {
        listener
            .note("the policy's stages are not balanced: there are no training images that do not certify");
        return Ok(());
    };
    let images = Drawn::of(loaded, &pool, BALANCE_IMAGES, on_bad_image)?;
    policy.offsets = listener.follow("balancing the stages", |progress| {
        balance(&loaded.model, policy, images.batch(), &mut progress.tell())
    })?;
    Ok(())
}

/// Images in memory.
struct Drawn {
    pixels: Vec<f32>,
    /// Height and width of each image, pixels.
    sizes: Vec<[usize; 2]>,
    /// Positions in the data set.
    indices: Vec<usize>,
}

impl Drawn {
    /// `count` images of `dataset`, or all if it has fewer, shuffled, so that the classes of a data set that is sorted by them are
    /// all there.
    fn of(loaded: &Loaded, dataset: &Dataset, count: usize, on_bad_image: OnBadImage) -> Result<Self> {
        let mut drawn = Drawn { pixels: Vec::new(), sizes: Vec::new(), indices: Vec::new() };
        let options =
            LoaderOptions { batch: count, limit: Some(count), on_bad_image, ..LoaderOptions::default() };
        for batch in Loader::new(dataset, Order::Shuffled { seed: 0, epoch: 0 }, &loaded.transform, options)?
        {
            let batch = batch?;
            drawn.pixels.extend(batch.pixels);
            drawn.sizes.extend(batch.sizes);
            drawn.indices.extend(batch.indices);
        }
        Ok(drawn)
    }

    fn batch(&self) -> PixelBatch<'_> {
        PixelBatch::of_sizes(&self.pixels, &self.sizes)
    }
}

fn too_few(method: Method, parts: &DataParts, images: usize) -> MeasureError {
    let reason = format!(
        "{method} is fitted to at least {LEAST_FIT_IMAGES} training images that do not certify, and there are {images}; name \
         another --split, or give a folder without splits, which is cut into parts"
    );
    MeasureError::Part { data: parts.path(), reason }
}
