use proptest::prelude::*;

use super::quantise::quantise;
use super::*;
use crate::Activation;
use crate::reference::{self, max_difference};
use crate::simd::dot::SHORT_MAX;
use crate::word::{Bf16Pair, Word};

/// Random arguments of a layer.
struct Case {
    rows: usize,
    inputs: usize,
    outputs: usize,
    weight: Vec<f32>,
    bias: Vec<f32>,
    x: Vec<f32>,
    y0: Vec<f32>,
}

impl Case {
    fn draw(rows: usize, inputs: usize, outputs: usize, seed: u64) -> Self {
        let mut values = reference::values(seed);
        let mut draw = |n: usize| (0..n).map(|_| values()).collect::<Vec<f32>>();
        let (weight, bias) = (draw(outputs * inputs), draw(outputs));
        let (x, y0) = (draw(rows * inputs), draw(rows * outputs));
        Case { rows, inputs, outputs, weight, bias, x, y0 }
    }

    fn layer(&self, precision: Precision, set: InstructionSet) -> Linear {
        let packing = Packing { precision, isa: set, gamma: None };
        Linear::packed(&self.weight, Some(&self.bias), self.outputs, self.inputs, packing)
    }

    /// The reference for `x` as `layer` reads it, and for the packed weight.
    fn expected(&self, layer: &Linear) -> Vec<f32> {
        let mut rows = RowBuffer::default();
        rows.fill(layer.0.isa, layer.0.precision, &self.x, self.inputs);
        let weight: Vec<f32> = match layer.0.precision {
            Precision::F32 => self.weight.clone(),
            Precision::Bf16 => self.weight.iter().map(|w| reference::bf16(*w)).collect(),
            Precision::Int8 => {
                let short = has_short_sums(layer.0.isa);
                let rows = self.weight.chunks(self.inputs).map(|row| reference::quantise(row, short));
                rows.flat_map(|(q, scale)| q.into_iter().map(move |q| f32::from(q) * scale)).collect()
            }
        };
        reference::linear(&rows.to_f32(), &weight, &self.bias, self.inputs, self.outputs)
    }

    /// Checks that `layer` stores `y` rounded to pairs, and reads its rows as pairs, if it supports pairs.
    fn check_pairs(&self, layer: &Linear, rows: &RowBuffer, y: &[f32]) {
        let set = layer.0.isa;
        if self.outputs.is_multiple_of(2) {
            let mut pairs = vec![Bf16Pair::default(); y.len() / 2];
            layer.apply(rows, Epilogue::StorePairs(&mut pairs));
            let rounded: Vec<f32> = y.iter().map(|v| reference::bf16(*v)).collect();
            assert_eq!(pairs.iter().flat_map(|pair| pair.values()).collect::<Vec<f32>>(), rounded);
        }
        if self.inputs.is_multiple_of(2) && layer.0.layout == WordLayout::Bf16Pair {
            let mut x = vec![Bf16Pair::default(); self.x.len() / 2];
            set.convert(&self.x, &mut x);
            let mut same = self.y0.clone();
            layer.apply(&x[..], Epilogue::Store(&mut same));
            assert_eq!(same, y);
        }
    }

    /// Compares every epilogue of every layer with the reference of the same rounding.
    fn check(&self) -> Result<(), TestCaseError> {
        let tolerance = 1e-5 * self.inputs as f32;
        for (precision, set) in all() {
            let layer = self.layer(precision, set);
            let expected = self.expected(&layer);
            let close = |y: &[f32], expected: &[f32], tolerance: f32| {
                let difference = max_difference(y, expected);
                prop_assert!(difference <= tolerance, "{precision:?} {set}: {difference}");
                Ok(())
            };
            let mut rows = RowBuffer::default();
            rows.fill(set, precision, &self.x, self.inputs);
            let mut y = self.y0.clone();
            layer.forward(&self.x, &mut y);
            close(&y, &expected, tolerance)?;
            let mut converted = self.y0.clone();
            layer.apply(&rows, Epilogue::Store(&mut converted));
            prop_assert_eq!(&converted, &y);
            self.check_pairs(&layer, &rows, &y);
            y.copy_from_slice(&self.y0);
            layer.forward_add(&self.x, &mut y);
            let sum: Vec<f32> = expected.iter().zip(&self.y0).map(|(a, b)| a + b).collect();
            close(&y, &sum, tolerance)?;
            for (activation, next) in Activation::ALL
                .into_iter()
                .flat_map(|activation| Precision::ALL.map(|next| (activation, next)))
            {
                let activated = reference::activation(activation, &expected);
                layer.apply(&rows, Epilogue::Activate(activation, &mut y));
                close(&y, &activated, 1.2 * tolerance + 2e-6)?;
                let mut hidden = RowBuffer::default();
                layer.apply(&rows, Epilogue::ActivateRows(activation, &mut hidden, next));
                prop_assert_eq!((hidden.rows(), hidden.columns()), (self.rows, self.outputs));
                prop_assert_eq!(hidden.precision(), next);
                let mut again = RowBuffer::default();
                again.fill(set, next, &y, self.outputs);
                prop_assert_eq!(hidden.to_f32(), again.to_f32());
            }
        }
        Ok(())
    }
}

fn all() -> impl Iterator<Item = (Precision, InstructionSet)> {
    Precision::ALL
        .into_iter()
        .flat_map(|precision| InstructionSet::supported().map(move |set| (precision, set)))
}

/// Whether products of 8-bit integers are added in 16 bits.
fn has_short_sums(set: InstructionSet) -> bool {
    set.layout(Precision::Int8) == WordLayout::Int8Quad { max: SHORT_MAX }
}

proptest! {
    #[test]
    fn equals_the_reference(rows in 0usize..40, inputs in 1usize..70, outputs in 1usize..130, seed: u64) {
        Case::draw(rows, inputs, outputs, seed).check()?;
    }

    #[test]
    fn a_gate_weighs_the_second_half(rows in 0usize..20, inputs in 1usize..30, half in 1usize..60, seed: u64) {
        let activation = Activation::ALL[seed as usize % 4];
        let case = Case::draw(rows, inputs, 2 * half, seed);
        for (precision, set) in all() {
            let layer = case.layer(precision, set);
            let mut y = vec![0.0; rows * 2 * half];
            // Four times as large, so that the gates range from closed to open.
            let x: Vec<f32> = case.x.iter().map(|v| 4.0 * v).collect();
            layer.forward(&x, &mut y);
            let expected = reference::gated(activation, &y, 2 * half);
            let mut hidden = RowBuffer::default();
            layer.apply(&x[..], Epilogue::GateRows(activation, &mut hidden, Precision::F32));
            prop_assert_eq!((hidden.rows(), hidden.columns()), (rows, half));
            let greatest = expected.iter().fold(1f32, |m, v| m.max(v.abs()));
            prop_assert!(max_difference(&hidden.to_f32(), &expected) <= 1e-6 * greatest);
            for next in [Precision::Bf16, Precision::Int8] {
                let (mut narrow, mut again) = (RowBuffer::default(), RowBuffer::default());
                layer.apply(&x[..], Epilogue::GateRows(activation, &mut narrow, next));
                again.fill(set, next, &hidden.to_f32(), half);
                prop_assert_eq!(narrow.to_f32(), again.to_f32());
            }
        }
    }

    #[test]
    fn layer_scale_scales_the_layer(inputs in 1usize..40, outputs in 1usize..40, seed: u64) {
        let case = Case::draw(3, inputs, outputs, seed);
        let gamma = &case.y0[..outputs];
        for (precision, set) in all() {
            let packing = Packing { precision, isa: set, gamma: Some(gamma) };
            let scaled = Linear::packed(&case.weight, Some(&case.bias), outputs, inputs, packing);
            let mut plain = vec![0.0; 3 * outputs];
            case.layer(precision, set).forward(&case.x, &mut plain);
            let mut y = vec![0.0; 3 * outputs];
            scaled.forward(&case.x, &mut y);
            for (i, y) in y.iter().enumerate() {
                let tolerance = if precision == Precision::Bf16 { 4e-3 } else { 1e-5 };
                prop_assert!((y - plain[i] * gamma[i % outputs]).abs() <= tolerance * inputs as f32);
            }
        }
    }
}

/// More inputs than fit into a block of rows and than are multiplied in one go, the vector tails of each set, and
/// rows on both sides of a block; a row's result does not depend on the other rows.
#[test]
fn long_rows_are_cut_into_blocks_and_slices() {
    for (rows, inputs, outputs) in [(150, 4096, 33), (129, 1538, 17), (45, 3001, 49)] {
        let case = Case::draw(rows, inputs, outputs, 7);
        case.check().unwrap();
        for (precision, set) in all() {
            let layer = case.layer(precision, set);
            let mut y = case.y0.clone();
            layer.forward_add(&case.x, &mut y);
            for row in [0, rows / 2, rows - 1] {
                let mut alone = case.y0[row * outputs..][..outputs].to_vec();
                layer.forward_add(&case.x[row * inputs..][..inputs], &mut alone);
                assert_eq!(alone, y[row * outputs..][..outputs], "{precision:?} {set}");
            }
        }
    }
}

/// Errors of 8 bits and bf16 against f32, on values in -1..1: a mistake in a scale would exceed the bound. Weights
/// without a tail leave short sums the least room.
#[test]
fn rounding_stays_small() {
    let case = Case::draw(64, 384, 96, 3);
    let exact = reference::linear(&case.x, &case.weight, &case.bias, 384, 96);
    for (precision, set) in all() {
        let mut y = vec![0.0; exact.len()];
        case.layer(precision, set).forward(&case.x, &mut y);
        let bound = match precision {
            Precision::F32 => 1e-6,
            Precision::Bf16 => 4e-3,
            Precision::Int8 if has_short_sums(set) => 2e-2,
            Precision::Int8 => 1e-2,
        };
        let error = reference::relative_difference(&y, &exact);
        assert!(error < bound, "{precision:?} {set}: {error}");
    }
}

/// The largest sums of 8-bit products must not saturate when they are added in 16 bits.
#[test]
fn the_greatest_products_are_exact() {
    for set in InstructionSet::supported() {
        for weight in [[1.0; 70], [-1.0; 70]] {
            let packing = Packing { precision: Precision::Int8, isa: set, gamma: None };
            let layer = Linear::packed(&weight, None, 1, 70, packing);
            let mut y = [0.0];
            layer.forward(&[3.0; 70], &mut y);
            assert!((y[0] - 210.0 * weight[0]).abs() < 210.0 / 120.0, "{set}: {}", y[0]);
        }
    }
}

/// Short sums fit whatever the activations are: the worst case is the largest activation where weights have one sign,
/// and zero elsewhere. A rounding error may raise an activation by one.
#[test]
fn short_sums_fit() {
    let (greatest, mut values) = (i32::from(SHORT_MAX) + 1, reference::values(5));
    let mut fullest = 0;
    for inputs in 1..200 {
        // From values of equal size to mostly small ones.
        let row: Vec<f32> = (0..inputs).map(|i| values().powi(i % 5) * values().signum()).collect();
        let mut weights = Vec::new();
        let scale = quantise(&row, SHORT_MAX, &mut weights);
        for (q, w) in weights.iter().zip(&row) {
            assert!((f32::from(*q) * scale - w).abs() <= 0.501 * scale);
        }
        for (words, pair, sign) in
            weights.chunks(16).flat_map(|w| [(w, 0, 1), (w, 0, -1), (w, 1, 1), (w, 1, -1)])
        {
            let of_pair = words.chunks(4).flat_map(|word| word.chunks(2).skip(pair).take(1).flatten());
            let sum: i32 = of_pair.map(|q| (sign * i32::from(*q)).max(0) * greatest).sum();
            assert!(sum <= i32::from(i16::MAX), "{inputs}: {sum}");
            fullest = fullest.max(sum);
        }
    }
    assert!(fullest > 31_000, "room is used: {fullest}");
}

proptest! {
    #[test]
    fn weights_are_quantised_as_the_reference(inputs in 1usize..70, exponent in 0i32..5, short: bool, seed: u64) {
        let mut values = reference::values(seed);
        let row: Vec<f32> = (0..inputs).map(|_| values().powi(exponent)).collect();
        let mut integers = vec![7];
        let scale = quantise(&row, if short { SHORT_MAX } else { u8::MAX }, &mut integers);
        prop_assert_eq!((integers, scale), reference::quantise(&row, short));
    }
}

fn scalar() -> InstructionSet {
    InstructionSet::supported().next().expect("every processor has the scalar set")
}

#[test]
#[should_panic(expected = "x is in the layer's precision")]
fn rows_of_another_precision_are_refused() {
    let case = Case::draw(1, 4, 4, 1);
    let mut rows = RowBuffer::default();
    rows.fill(scalar(), Precision::Bf16, &case.x, 4);
    case.layer(Precision::Int8, scalar()).apply(&rows, Epilogue::Store(&mut [0.0; 4]));
}

/// 8-bit rows in 0..=255 would overflow sums of 16 bits: the layer's weights leave room for 0..=200 only.
#[test]
fn integers_of_another_range_are_refused() {
    let case = Case::draw(1, 64, 4, 1);
    for (made, multiplied) in all_pairs() {
        let mut rows = RowBuffer::default();
        rows.fill(made, Precision::Int8, &case.x, 64);
        let layer = case.layer(Precision::Int8, multiplied);
        let applied = std::panic::catch_unwind(|| layer.apply(&rows, Epilogue::Store(&mut [0.0; 4])));
        let alike = has_short_sums(made) == has_short_sums(multiplied);
        assert_eq!(applied.is_ok(), alike, "rows of {made}, a layer of {multiplied}");
    }
}

fn all_pairs() -> impl Iterator<Item = (InstructionSet, InstructionSet)> {
    InstructionSet::supported().flat_map(|a| InstructionSet::supported().map(move |b| (a, b)))
}
