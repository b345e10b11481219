//! A backbone so small that the best policy is known: 16 patch tokens of which 4 are marked; the class
//! is the sign of the sum of the marked tokens' evidence. Unmarked tokens carry evidence too, but it
//! does not count. Blocks change nothing.

use vitrim_random::uniform;
use vitrim_vit::{
    AttentionSpec, Backbone, HostState, MlpSpec, Output, PixelBatch, Pool, Pooling, Reduction, Result, Site,
    Taps, View, VitSpec, Want,
};

pub const MARKED: usize = 4;

pub struct Toy {
    spec: VitSpec,
    evidence: Evidence,
}

/// The evidence of the four marked tokens.
#[derive(Clone, Copy, PartialEq)]
pub enum Evidence {
    /// Two are for the class, two, slightly weaker, against it: both of the first are needed.
    Contested,
    /// All are for the class: any one of them is enough.
    Unanimous,
}

impl Toy {
    pub fn new(evidence: Evidence) -> Self {
        let plain = VitSpec::from_timm_name("vit_tiny_patch16_224").unwrap();
        let spec = VitSpec {
            architecture: "toy".into(),
            img_size: [8, 8],
            patch_size: 2,
            dim: 4,
            depth: 4,
            num_classes: 2,
            attention: AttentionSpec { heads: 1, ..plain.attention },
            mlp: MlpSpec { hidden: 4, ..plain.mlp },
            // The answer is made of the patch tokens.
            pooling: Pooling { pool: Pool::Avg, ..plain.pooling },
            ..plain
        };
        spec.check().unwrap();
        Toy { spec, evidence }
    }

    /// Pixels, labels and marks (`[I][16]`) of images `first..first + count`.
    pub fn images(&self, first: u64, count: u64) -> (Vec<f32>, Vec<Option<u32>>, Vec<Vec<bool>>) {
        let (mut pixels, mut labels, mut marks) = (Vec::new(), Vec::new(), Vec::new());
        for image in first..first + count {
            let mut order: Vec<usize> = (0..16).collect();
            order.sort_by(|a, b| uniform(&[1, image, *a as u64]).total_cmp(&uniform(&[1, image, *b as u64])));
            let marked: Vec<bool> = (0..16).map(|i| order[..MARKED].contains(&i)).collect();
            let sign = if uniform(&[2, image]) < 0.5 { 1.0 } else { -1.0 };
            let evidence = |i: usize| match order.iter().position(|o| *o == i) {
                Some(0 | 1) => sign,
                Some(2 | 3) if self.evidence == Evidence::Contested => -0.8 * sign,
                Some(_) if marked[i] => sign,
                _ => uniform(&[3, image, i as u64]) as f32 * 2.0 - 1.0,
            };
            let mut channels = [[0.0f32; 64]; 3];
            for (i, marked) in marked.iter().enumerate() {
                let pixel = (i / 4 * 2) * 8 + i % 4 * 2;
                channels[0][pixel] = if *marked { 1.0 } else { -1.0 };
                channels[1][pixel] = evidence(i);
            }
            pixels.extend(channels.iter().flatten());
            labels.push(Some(u32::from(sign < 0.0)));
            marks.push(marked);
        }
        (pixels, labels, marks)
    }
}

impl Backbone for Toy {
    type State = HostState;

    fn spec(&self) -> &VitSpec {
        &self.spec
    }

    fn embed(&self, pixels: PixelBatch<'_>) -> Result<HostState> {
        pixels.check(&self.spec)?;
        let mut tokens = Vec::new();
        for image in pixels.data.chunks_exact(3 * 64) {
            tokens.extend([0.0, 0.0, 0.0, 1.0]); // class token
            for i in 0..16 {
                let pixel = (i / 4 * 2) * 8 + i % 4 * 2;
                tokens.extend([image[pixel], image[64 + pixel], 1.0, 0.0]);
            }
        }
        Ok(HostState::embedded(&self.spec, tokens, pixels.grids(&self.spec)))
    }

    fn advance(&self, state: &mut HostState, to: Site, _: Taps) -> Result<()> {
        state.site.check_forward(to, &self.spec)?;
        state.site = to;
        Ok(())
    }

    fn view<'s>(&self, state: &'s HostState) -> Result<View<'s>> {
        Ok(state.view(&self.spec))
    }

    fn reduce(&self, state: &mut HostState, reduction: &Reduction) -> Result<()> {
        state.reduce(reduction)
    }

    fn finish(&self, state: &HostState, _: Want) -> Result<Output> {
        let view = self.view(state)?;
        let mut values = Vec::new();
        for b in 0..view.batch() {
            let evidence: f32 =
                view.patch_rows(b).map(|t| view.token(t)).filter(|x| x[0] > 0.0).map(|x| x[1]).sum();
            values.extend([6.0 * evidence, -6.0 * evidence]);
        }
        Ok(Output { values, width: 2 })
    }
}
