//! Methods whose numbers are fitted to a backbone: published for it, or found on unlabelled images.

use serde::{Deserialize, Serialize};
use vitrim_vit::VitSpec;

use crate::pruner::Pruner;

/// Images that a method is fitted to, unless there are fewer.
pub const FIT_IMAGES: usize = 64;
/// Fewer images than these say too little of a backbone to fit a policy to: as many as the search of `diffrate` looks at.
pub const LEAST_FIT_IMAGES: usize = 24;

/// A method's numbers at several costs, from which its pruner at any cost between is made.
pub struct Fit {
    spec: VitSpec,
    /// From the costliest to the cheapest.
    points: Vec<FitPoint>,
    make: fn(&VitSpec, &[f64]) -> Box<dyn Pruner>,
}

/// A method's numbers at a cost.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FitPoint {
    /// Mean MACs of an image, scoring included.
    pub macs: f64,
    /// The numbers, equally many at every point.
    pub numbers: Vec<f64>,
}

impl Fit {
    /// The fit to `spec` through `points`, of which there is at least one; `make` makes a pruner of a point's numbers.
    pub(super) fn new(
        spec: &VitSpec,
        mut points: Vec<FitPoint>,
        make: fn(&VitSpec, &[f64]) -> Box<dyn Pruner>,
    ) -> Self {
        assert!(!points.is_empty(), "a fit has a point");
        points.sort_by(|x, y| y.macs.total_cmp(&x.macs));
        points.dedup_by(|later, earlier| later.macs == earlier.macs);
        Fit { spec: spec.clone(), points, make }
    }

    /// The pruner that costs about `macs` per image: the numbers are interpolated between the two nearest costs, and
    /// outside of all costs they are those of the nearest.
    pub fn at_cost(&self, macs: u64) -> Box<dyn Pruner> {
        (self.make)(&self.spec, &self.numbers(macs as f64))
    }

    /// The points, from the costliest to the cheapest.
    pub fn points(&self) -> &[FitPoint] {
        &self.points
    }

    /// MACs of an image at the cheapest point.
    pub fn least_macs(&self) -> f64 {
        self.points[self.points.len() - 1].macs
    }

    fn numbers(&self, macs: f64) -> Vec<f64> {
        let cheaper = self.points.partition_point(|point| point.macs > macs);
        let (Some(above), Some(below)) =
            (cheaper.checked_sub(1).map(|place| &self.points[place]), self.points.get(cheaper))
        else {
            return self.points[cheaper.min(self.points.len() - 1)].numbers.clone();
        };
        let share = (above.macs - macs) / (above.macs - below.macs);
        let between = above.numbers.iter().zip(&below.numbers);
        between.map(|(above, below)| above + share * (below - above)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::handmade::NoPruner;

    #[test]
    fn numbers_are_interpolated_by_cost() {
        let spec = VitSpec::from_timm_name("deit_tiny_patch16_224").unwrap();
        let point = |macs, numbers: &[f64]| FitPoint { macs, numbers: numbers.to_vec() };
        let points = vec![point(50.0, &[1.0, 20.0]), point(100.0, &[3.0, 30.0]), point(70.0, &[2.0, 26.0])];
        let fit = Fit::new(&spec, points, |_, _| Box::new(NoPruner));
        assert_eq!(fit.numbers(70.0), [2.0, 26.0]);
        assert_eq!(fit.numbers(85.0), [2.5, 28.0]);
        assert_eq!(fit.numbers(55.0), [1.25, 21.5]);
        assert_eq!(fit.numbers(1e9), [3.0, 30.0], "the costliest");
        assert_eq!(fit.numbers(0.0), [1.0, 20.0], "the cheapest");
        assert_eq!(fit.least_macs(), 50.0);
    }
}
