//! Passes that end early when they are asked to.

use std::sync::atomic::{AtomicBool, Ordering};

use super::CpuBackbone;
use crate::backbone::{Backbone, Output, PixelBatch, Site, Taps, View, Want};
use crate::error::{Result, VitError};
use crate::packed::Reduction;
use crate::spec::VitSpec;
use crate::state::HostState;

/// A session whose passes end with [`VitError::Interrupted`] soon after a flag is set: no part of a batch enters another
/// block. Otherwise its results are those of the session, bit for bit.
pub struct Interruptible<'a> {
    session: &'a CpuBackbone,
    stop: &'a AtomicBool,
}

impl CpuBackbone {
    /// This session, until `stop` is set.
    pub fn until<'a>(&'a self, stop: &'a AtomicBool) -> Interruptible<'a> {
        Interruptible { session: self, stop }
    }
}

impl Interruptible<'_> {
    /// Whether the pass may go on.
    ///
    /// # Errors
    /// [`VitError::Interrupted`] if it was asked to stop.
    pub fn go_on(&self) -> Result<()> {
        if self.stop.load(Ordering::Relaxed) { Err(VitError::Interrupted) } else { Ok(()) }
    }
}

impl Backbone for Interruptible<'_> {
    type State = HostState;

    fn spec(&self) -> &VitSpec {
        self.session.spec()
    }

    fn enter<T: Send>(&self, pass: impl FnOnce() -> T + Send) -> T {
        self.session.enter(pass)
    }

    fn short_step<T>(&self, step: impl FnOnce() -> T) -> T {
        self.session.short_step(step)
    }

    fn embed(&self, pixels: PixelBatch<'_>) -> Result<HostState> {
        let state = self.session.embed_until(pixels, Some(self.stop))?;
        self.go_on()?;
        Ok(state)
    }

    fn advance(&self, state: &mut HostState, to: Site, taps: Taps) -> Result<()> {
        self.session.advance_until(state, to, taps, Some(self.stop))?;
        self.go_on()
    }

    fn advance_to_answer(&self, state: &mut HostState) -> Result<()> {
        self.session.advance_to_answer_until(state, Some(self.stop))?;
        self.go_on()
    }

    fn view<'s>(&self, state: &'s HostState) -> Result<View<'s>> {
        self.session.view(state)
    }

    fn reduce(&self, state: &mut HostState, reduction: &Reduction) -> Result<()> {
        self.go_on()?;
        self.session.reduce(state, reduction)
    }

    fn finish(&self, state: &HostState, want: Want) -> Result<Output> {
        self.go_on()?;
        self.session.finish(state, want)
    }
}
