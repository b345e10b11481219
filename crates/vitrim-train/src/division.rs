//! Gradients of a batch by parts: computed by the threads of all ranks, and added in an order that depends on the batch
//! alone.
//!
//! The gradients of the parts are the leaves of a binary tree, whose nodes are the sums of their two halves. A rank has
//! consecutive parts. It sends the sums of the largest nodes that are all its own, and every rank finishes the tree, so
//! that neither the number of threads nor that of ranks changes a bit.

use std::collections::VecDeque;
use std::ops::Range;

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::optim::{GradientsAccumulator, GradientsParams};
use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use vitrim_data::BatchShare;
use vitrim_ranks::{Damaged, RankError, Ranks, Wire, share};

use crate::device::host;
use crate::error::Result;

/// Images of a part: enough to be computed together, few enough for every thread to have some.
pub const IMAGES: usize = 8;

/// How the batches of a run are divided.
#[derive(Clone, Debug)]
pub struct Division {
    parts: usize,
    ranks: Ranks,
}

/// The place of a rank's images in a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The first of them.
    pub first: usize,
    /// The number of images in the batch.
    pub whole: usize,
}

impl Place {
    /// The places of `images` of the batch among the rank's own.
    pub fn among_own(self, images: Range<usize>) -> Range<usize> {
        images.start - self.first..images.end - self.first
    }
}

impl Division {
    /// Batches of `images` images in parts of `each`, whose gradients `ranks` compute; a GPU computes whole batches.
    pub fn new(images: usize, each: usize, device: &Device, ranks: &Ranks) -> Self {
        let parts = if *device == Device::flex() { images.div_ceil(each).max(1) } else { 1 };
        Division { parts, ranks: ranks.clone() }
    }

    /// The share of each batch whose gradients this rank computes.
    pub fn own(&self) -> BatchShare {
        let own = self.ranks.share(self.parts);
        BatchShare { first: own.start, end: own.end, of: self.parts }
    }

    /// Where this rank's `own` images of a batch are.
    ///
    /// # Errors
    /// If another rank has failed.
    pub fn place(&self, own: usize) -> Result<Place> {
        let (counts, _) = self.ranks.gather(own)?;
        let first = counts[..self.ranks.rank()].iter().sum();
        Ok(Place { first, whole: counts.iter().sum() })
    }

    /// The sum of the gradients that `part` computes for ranges of a batch of `images` images, each with a copy of
    /// `module` in `dtype`; `None` if no part has any. Also returns the other results of the parts, in order. Parts
    /// without images are left out.
    ///
    /// # Errors
    /// The first error of a part, or that of another rank.
    pub fn sum<M: Module + Sync, T: Send + Wire>(
        &self,
        module: &M,
        images: usize,
        dtype: FloatDType,
        part: impl Fn(&M, Range<usize>) -> Result<(Option<GradientsParams>, T)> + Sync,
    ) -> Result<(Option<GradientsParams>, Vec<T>)> {
        let work = Work { module, parts: self.parts, images, dtype, part: &part };
        let (mut sums, mut others) = (Vec::new(), Vec::new());
        for node in nodes(0..self.parts, &self.ranks.share(self.parts)) {
            let (sum, mut more) = work.sum(node)?;
            sums.push(sum);
            others.append(&mut more);
        }
        if self.ranks.is_alone() {
            return Ok((sums.pop().flatten(), others));
        }
        let sums = sums.into_iter().map(|sum| sum.map(|sum| values(module, sum))).collect();
        let (all, _) = self.ranks.gather(Sent { sums, others })?;
        let (mut given, mut others) = (VecDeque::new(), Vec::new());
        for (rank, mut sent) in all.into_iter().enumerate() {
            let nodes = nodes(0..self.parts, &share(rank, self.ranks.size(), self.parts));
            if nodes.len() != sent.sums.len() {
                return Err(RankError::Damaged(rank).into());
            }
            for (node, sum) in nodes.into_iter().zip(sent.sums) {
                let sum = sum.map(|sum| gradients(module, sum)).transpose();
                given.push_back((node, sum.map_err(|Damaged| RankError::Damaged(rank))?));
            }
            others.append(&mut sent.others);
        }
        Ok((finished(module, 0..self.parts, &mut given), others))
    }
}

/// The work on one batch.
struct Work<'a, M, P> {
    module: &'a M,
    parts: usize,
    images: usize,
    dtype: FloatDType,
    part: &'a P,
}

impl<M: Module + Sync, P> Work<'_, M, P> {
    /// The sum of a node of the tree, whose halves are computed in parallel.
    fn sum<T: Send>(&self, node: Range<usize>) -> Result<(Option<GradientsParams>, Vec<T>)>
    where
        P: Fn(&M, Range<usize>) -> Result<(Option<GradientsParams>, T)> + Sync,
    {
        if node.len() == 1 {
            let share = BatchShare { first: node.start, end: node.end, of: self.parts };
            let images = share.places(self.images);
            if images.is_empty() {
                return Ok((None, Vec::new()));
            }
            let (gradients, other) = (self.part)(&replica(self.module, self.dtype), images)?;
            return Ok((gradients, vec![other]));
        }
        let [left, right] = halves(node);
        let (left, right) = rayon::join(|| self.sum(left), || self.sum(right));
        let ((left, mut others), (right, mut more)) = (left?, right?);
        others.append(&mut more);
        Ok((added(self.module, left, right), others))
    }
}

/// The halves of a node of two or more parts.
fn halves(node: Range<usize>) -> [Range<usize>; 2] {
    let middle = node.start + node.len() / 2;
    [node.start..middle, middle..node.end]
}

/// The largest nodes of the tree below `node` whose parts are all in `own`, in order.
fn nodes(node: Range<usize>, own: &Range<usize>) -> Vec<Range<usize>> {
    if own.start <= node.start && node.end <= own.end {
        return vec![node];
    }
    if node.end <= own.start || own.end <= node.start || node.len() == 1 {
        return Vec::new();
    }
    halves(node).into_iter().flat_map(|half| nodes(half, own)).collect()
}

/// The sum of `node` from those of nodes below it, which are `given` in order.
fn finished<M: Module>(
    module: &M,
    node: Range<usize>,
    given: &mut VecDeque<(Range<usize>, Option<GradientsParams>)>,
) -> Option<GradientsParams> {
    if let Some((_, sum)) = given.pop_front_if(|(first, _)| *first == node) {
        return sum;
    }
    let [left, right] = halves(node).map(|half| finished(module, half, given));
    added(module, left, right)
}

fn added<M: Module>(
    module: &M,
    left: Option<GradientsParams>,
    right: Option<GradientsParams>,
) -> Option<GradientsParams> {
    let (left, right) = match (left, right) {
        (Some(left), Some(right)) => (left, right),
        (one, other) => return one.or(other),
    };
    let mut sum = GradientsAccumulator::new();
    sum.accumulate(module, left);
    sum.accumulate(module, right);
    Some(sum.grads())
}

/// What a rank sends: the gradients of its nodes, tensor by tensor, and the other results of its parts.
struct Sent<T> {
    sums: Vec<Option<Vec<Option<Vec<f32>>>>>,
    others: Vec<T>,
}

impl<T: Wire> Wire for Sent<T> {
    fn put(&self, into: &mut Vec<u8>) {
        self.sums.len().put(into);
        for sum in &self.sums {
            sum.as_ref().map(Vec::len).put(into);
            sum.iter().flatten().for_each(|tensor| tensor.put(into));
        }
        self.others.len().put(into);
        self.others.iter().for_each(|other| other.put(into));
    }

    fn take(from: &mut &[u8]) -> Result<Self, Damaged> {
        let sum = |from: &mut &[u8]| match <Option<usize> as Wire>::take(from)? {
            Some(tensors) => (0..tensors).map(|_| Wire::take(from)).collect::<Result<_, _>>().map(Some),
            None => Ok(None),
        };
        let sums = (0..usize::take(from)?).map(|_| sum(from)).collect::<Result<_, _>>()?;
        let others = (0..usize::take(from)?).map(|_| T::take(from)).collect::<Result<_, _>>()?;
        Ok(Sent { sums, others })
    }
}

/// `gradients` of `module` tensor by tensor.
fn values<M: Module>(module: &M, gradients: GradientsParams) -> Vec<Option<Vec<f32>>> {
    let mut read = Read { gradients, values: Vec::new() };
    module.visit(&mut read);
    read.values
}

struct Read {
    gradients: GradientsParams,
    values: Vec<Option<Vec<f32>>>,
}

impl ModuleVisitor for Read {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        self.values.push(self.gradients.remove::<D>(param.id).map(host));
    }
}

/// The gradients of `module` whose values are these.
fn gradients<M: Module>(
    module: &M,
    values: Vec<Option<Vec<f32>>>,
) -> std::result::Result<GradientsParams, Damaged> {
    let mut written = Written { values: values.into_iter(), gradients: GradientsParams::new(), fits: true };
    module.visit(&mut written);
    if written.fits && written.values.next().is_none() { Ok(written.gradients) } else { Err(Damaged) }
}

struct Written {
    values: std::vec::IntoIter<Option<Vec<f32>>>,
    gradients: GradientsParams,
    /// Whether each tensor has had a value of its size.
    fits: bool,
}

impl ModuleVisitor for Written {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = param.val().without_autodiff();
        match self.values.next() {
            Some(None) => {}
            Some(Some(values)) if values.len() == tensor.dims().iter().product::<usize>() => {
                let gradient =
                    Tensor::<D>::from_data(TensorData::new(values, tensor.dims()), &tensor.device());
                self.gradients.register(param.id, gradient);
            }
            _ => self.fits = false,
        }
    }
}

/// A copy of `module` in `dtype`, with its own leaves under the same ids, so that the graphs of threads are separate.
fn replica<M: Module>(module: &M, dtype: FloatDType) -> M {
    module.clone().map(&mut Leaves { dtype })
}

/// Converts `gradients` of a replica of `module` to f32.
pub fn widened<M: Module>(module: &M, gradients: GradientsParams) -> GradientsParams {
    let mut widened = Widened { gradients, f32: GradientsParams::new() };
    module.visit(&mut widened);
    widened.f32
}

struct Leaves {
    dtype: FloatDType,
}

impl ModuleMapper for Leaves {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let (id, tensor, mapper) = param.consume();
        let tensor = tensor.without_autodiff().cast(self.dtype);
        Param::from_mapped_value(id, tensor.autodiff().require_grad(), mapper)
    }
}

struct Widened {
    gradients: GradientsParams,
    f32: GradientsParams,
}

impl ModuleVisitor for Widened {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            self.f32.register(param.id, gradient.cast(FloatDType::F32));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nodes_of_ranks_are_those_of_one_tree() {
        for (parts, size) in [(16, 3), (16, 4), (7, 2), (5, 5), (4, 6), (1, 3)] {
            let all: Vec<Range<usize>> =
                (0..size).flat_map(|rank| nodes(0..parts, &share(rank, size, parts))).collect();
            assert_eq!(all.iter().cloned().flatten().collect::<Vec<_>>(), (0..parts).collect::<Vec<_>>());
            assert!(all.len() <= size * 8, "{all:?}");
        }
        assert_eq!(nodes(0..16, &(0..16)), vec![0..16; 1]);
        assert_eq!(nodes(0..16, &(5..10)), [5..6, 6..8, 8..10]);
        assert_eq!(nodes(0..4, &(2..2)), Vec::<Range<usize>>::new());
    }
}
