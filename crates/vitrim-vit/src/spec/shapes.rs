//! Names and shapes of a backbone's tensors. The names are timm's; the names in other libraries are in the tables of
//! the families.

use super::{EmbeddingNorm, MlpSpec, Positions, VitSpec};

impl VitSpec {
    /// Names of the classifier heads: none without classes, two with distillation.
    pub fn head_names(&self) -> &'static [&'static str] {
        match (self.num_classes, self.embedding.distilled) {
            (0, _) => &[],
            (_, false) => &["head"],
            (_, true) => &["head", "head_dist"],
        }
    }

    /// Name of the final norm; `None` if there is none.
    pub fn final_norm(&self) -> Option<&'static str> {
        self.pooling.final_norm.then_some(if self.pooling.fc_norm { "fc_norm" } else { "norm" })
    }

    /// Name of the norm before block 0; `None` if there is none.
    pub fn embedding_norm(&self) -> Option<&'static str> {
        match self.embedding.norm {
            EmbeddingNorm::None => None,
            EmbeddingNorm::Tokens => Some("norm_pre"),
            EmbeddingNorm::Patches => Some("patch_embed.norm"),
        }
    }

    /// Rows of the table of positions; 0 if there is none.
    pub fn position_rows(&self) -> usize {
        match self.positions {
            Positions::None | Positions::Sines => 0,
            Positions::All | Positions::ClassAndPatches | Positions::Patches => {
                let [rows, columns] = self.embedding.position_grid.unwrap_or(self.grid());
                self.embedded_prefix() + rows * columns
            }
        }
    }

    /// Name and number of rows of each learned prefix token, in order.
    pub fn prefix_tokens(&self) -> impl Iterator<Item = (&'static str, usize)> {
        let tokens = [
            ("cls_token", usize::from(self.embedding.class_token)),
            ("dist_token", usize::from(self.embedding.distilled)),
            ("reg_token", self.embedding.reg_tokens),
        ];
        tokens.into_iter().filter(|(_, rows)| *rows > 0)
    }

    /// Name and shape of every tensor, in timm's layout. Fingerprints of trained policies depend on the order.
    pub fn tensor_shapes(&self) -> Vec<(String, Vec<usize>)> {
        let (d, attention) = (self.dim, &self.attention);
        let mut to = Shapes { shapes: Vec::new(), rms: self.norm.rms };
        to.add("patch_embed.proj.weight", &[d, 3, self.patch_size, self.patch_size]);
        to.add_if(self.embedding.patch_bias, "patch_embed.proj.bias", &[d]);
        to.add_if(self.position_rows() > 0, "pos_embed", &[1, self.position_rows(), d]);
        for (name, rows) in self.prefix_tokens() {
            to.add(name, &[1, rows, d]);
        }
        if let Some(norm) = self.embedding_norm() {
            to.norm(norm, d);
        }
        for l in 0..self.depth {
            let name = |part: &str| format!("blocks.{l}.{part}");
            to.norm(&name("norm1"), d);
            to.add(&name("attn.qkv.weight"), &[3 * d, d]);
            match (attention.qkv_bias, attention.unbiased_keys) {
                (true, true) => {
                    to.add(&name("attn.q_bias"), &[d]);
                    to.add(&name("attn.v_bias"), &[d]);
                }
                (biased, _) => to.add_if(biased, &name("attn.qkv.bias"), &[3 * d]),
            }
            for norm in ["attn.q_norm", "attn.k_norm"].iter().filter(|_| attention.qk_norm) {
                to.norm(&name(norm), self.head_dim());
            }
            if attention.inner_norm {
                to.norm(&name("attn.norm"), d);
            }
            to.add(&name("attn.proj.weight"), &[d, d]);
            to.add_if(attention.proj_bias, &name("attn.proj.bias"), &[d]);
            to.add_if(self.layer_scale, &name("ls1.gamma"), &[d]);
            to.norm(&name("norm2"), d);
            to.mlp(&name("mlp"), &self.mlp, d);
            to.add_if(self.layer_scale, &name("ls2.gamma"), &[d]);
        }
        if let Some(norm) = self.final_norm() {
            to.norm(norm, d);
        }
        if let Some(pool) = &self.pooling.attention {
            to.add("attn_pool.latent", &[1, 1, d]);
            to.add_if(pool.query, "attn_pool.q.weight", &[d, d]);
            to.add_if(pool.query && pool.bias, "attn_pool.q.bias", &[d]);
            to.add("attn_pool.kv.weight", &[2 * d, d]);
            to.add_if(pool.bias, "attn_pool.kv.bias", &[2 * d]);
            to.add("attn_pool.proj.weight", &[d, d]);
            to.add("attn_pool.proj.bias", &[d]);
            if let Some(mlp) = &pool.mlp {
                to.norm("attn_pool.norm", d);
                to.mlp("attn_pool.mlp", mlp, d);
            }
        }
        if let Some(width) = self.pooling.projection {
            to.add("visual_projection.weight", &[width, self.num_features()]);
            to.add_if(self.pooling.projection_bias, "visual_projection.bias", &[width]);
        }
        for head in self.head_names() {
            to.add(&format!("{head}.weight"), &[self.num_classes, self.head_inputs()]);
            to.add(&format!("{head}.bias"), &[self.num_classes]);
        }
        to.shapes
    }

    /// Number of parameters.
    pub fn num_parameters(&self) -> usize {
        self.tensor_shapes().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }
}

/// Names and shapes, in order.
struct Shapes {
    shapes: Vec<(String, Vec<usize>)>,
    /// Whether norms are RMSNorms, without bias.
    rms: bool,
}

impl Shapes {
    fn add(&mut self, name: &str, shape: &[usize]) {
        self.shapes.push((name.to_owned(), shape.to_vec()));
    }

    fn add_if(&mut self, there: bool, name: &str, shape: &[usize]) {
        if there {
            self.add(name, shape);
        }
    }

    fn norm(&mut self, name: &str, width: usize) {
        self.add(&format!("{name}.weight"), &[width]);
        self.add_if(!self.rms, &format!("{name}.bias"), &[width]);
    }

    fn mlp(&mut self, name: &str, mlp: &MlpSpec, d: usize) {
        self.add(&format!("{name}.fc1.weight"), &[mlp.first(), d]);
        self.add_if(mlp.bias, &format!("{name}.fc1.bias"), &[mlp.first()]);
        if mlp.norm {
            self.norm(&format!("{name}.norm"), mlp.hidden);
        }
        self.add(&format!("{name}.fc2.weight"), &[d, mlp.hidden]);
        self.add_if(mlp.bias, &format!("{name}.fc2.bias"), &[d]);
    }
}
