//! Names and shapes of a backbone's tensors. The names are timm's; the names in other libraries are in the tables of
//! the families.

use super::VitSpec;

impl VitSpec {
    /// Names of the classifier heads: none without classes, two with distillation.
    pub fn head_names(&self) -> &'static [&'static str] {
        match (self.num_classes, self.embedding.distilled) {
            (0, _) => &[],
            (_, false) => &["head"],
            (_, true) => &["head", "head_dist"],
        }
    }

    /// Name of the final norm.
    pub fn final_norm(&self) -> &'static str {
        if self.pooling.fc_norm { "fc_norm" } else { "norm" }
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
        let (d, mlp) = (self.dim, &self.mlp);
        let mut shapes = Vec::new();
        let mut add = |name: String, shape: &[usize]| shapes.push((name, shape.to_vec()));
        add("patch_embed.proj.weight".into(), &[d, 3, self.patch_size, self.patch_size]);
        add("patch_embed.proj.bias".into(), &[d]);
        add("pos_embed".into(), &[1, self.embedded_prefix() + self.num_patches(), d]);
        for (name, rows) in self.prefix_tokens() {
            add(name.into(), &[1, rows, d]);
        }
        for l in 0..self.depth {
            let mut block = |name: &str, shape: &[usize]| add(format!("blocks.{l}.{name}"), shape);
            block("norm1.weight", &[d]);
            block("norm1.bias", &[d]);
            block("attn.qkv.weight", &[3 * d, d]);
            if self.attention.qkv_bias {
                block("attn.qkv.bias", &[3 * d]);
            }
            for norm in ["q_norm", "k_norm"].iter().filter(|_| self.attention.qk_norm) {
                block(&format!("attn.{norm}.weight"), &[self.head_dim()]);
                block(&format!("attn.{norm}.bias"), &[self.head_dim()]);
            }
            block("attn.proj.weight", &[d, d]);
            block("attn.proj.bias", &[d]);
            if self.layer_scale {
                block("ls1.gamma", &[d]);
            }
            block("norm2.weight", &[d]);
            block("norm2.bias", &[d]);
            block("mlp.fc1.weight", &[mlp.first(), d]);
            block("mlp.fc1.bias", &[mlp.first()]);
            block("mlp.fc2.weight", &[d, mlp.hidden]);
            block("mlp.fc2.bias", &[d]);
            if self.layer_scale {
                block("ls2.gamma", &[d]);
            }
        }
        add(format!("{}.weight", self.final_norm()), &[d]);
        add(format!("{}.bias", self.final_norm()), &[d]);
        for head in self.head_names() {
            add(format!("{head}.weight"), &[self.num_classes, self.num_features()]);
            add(format!("{head}.bias"), &[self.num_classes]);
        }
        shapes
    }

    /// Number of parameters.
    pub fn num_parameters(&self) -> usize {
        self.tensor_shapes().iter().map(|(_, shape)| shape.iter().product::<usize>()).sum()
    }
}
