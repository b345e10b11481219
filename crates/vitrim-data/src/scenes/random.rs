//! Random numbers of one scene: one stream for each part, so that a change in the drawing of one part does not affect
//! the others.

use std::ops::Range;

use rand_pcg::Pcg32;
use rand_pcg::rand_core::RngCore;
use vitrim_random::mix;

/// The parts of a scene that use random numbers, each with its own stream.
#[derive(Clone, Copy)]
pub(super) enum RandomStream {
    Label = 1,
    Object = 2,
    Light = 3,
    Background = 4,
    Distractors = 5,
    Noise = 6,
}

/// PCG-XSH-RR 64/32, whose output is stable in `rand_pcg`; the conversions are our own for the same reason.
pub(super) struct Random(Pcg32);

impl Random {
    pub(super) fn new(seed: u64, stream: RandomStream) -> Self {
        let key = mix(mix(seed) ^ stream as u64);
        Self(Pcg32::new(key, stream as u64))
    }

    /// Uniform in `[0, 1)`, a multiple of 2^-24.
    pub(super) fn unit(&mut self) -> f32 {
        (self.0.next_u32() >> 8) as f32 / (1 << 24) as f32
    }

    /// Uniform in `range`.
    pub(super) fn range(&mut self, range: Range<f32>) -> f32 {
        range.start + (range.end - range.start) * self.unit()
    }

    /// A whole number below `count`.
    pub(super) fn below(&mut self, count: u32) -> u32 {
        ((u64::from(self.0.next_u32()) * u64::from(count)) >> 32) as u32
    }

    pub(super) fn chance(&mut self, probability: f32) -> bool {
        self.unit() < probability
    }

    /// The cosine and sine of a uniform angle.
    pub(super) fn direction(&mut self) -> [f32; 2] {
        direction(self.unit())
    }

    pub(super) fn bytes(&mut self, bytes: &mut [u8]) {
        self.0.fill_bytes(bytes);
    }

    pub(super) fn key(&mut self) -> u32 {
        self.0.next_u32()
    }
}

/// The cosine and sine of an angle given in turns.
pub(super) fn direction(turns: f32) -> [f32; 2] {
    let angle = std::f32::consts::TAU * turns;
    [libm::cosf(angle), libm::sinf(angle)]
}
