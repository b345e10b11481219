//! What architectures need that vitrim does not run, for the error that names them.

/// Parts of names of architectures, in lower case, and what they need. The first that a name contains counts.
const MISSING: [(&str, &str); 21] = [
    ("naflexvit", "positions of rows and columns that are summed, or RADIO's own parts"),
    ("rope_mixed", "rotary frequencies that are learned for each block and head"),
    ("rope_reg", "rotary position embeddings in timm's plain geometries"),
    ("eva02_enormous", "norms after the residual branches"),
    ("beitv2", "a relative position bias"),
    ("beit", "a relative position bias"),
    ("data2vec", "a relative position bias"),
    ("swin", "attention within windows"),
    ("samvit", "attention within windows and a relative position bias"),
    ("sam_", "attention within windows and a relative position bias"),
    ("hiera", "attention within windows, and pooling between stages"),
    ("mvit", "pooling of keys and values"),
    ("maxvit", "convolutions, and attention within windows"),
    ("maxxvit", "convolutions, and attention within windows"),
    ("coatnet", "convolutions and a relative position bias"),
    ("convnext", "convolutions"),
    ("resnet", "convolutions"),
    ("efficientnet", "convolutions"),
    ("mobilenet", "convolutions"),
    ("cait", "attention between heads, and a class token that joins late"),
    ("internvit", "its own class with remote code"),
];

/// What the architecture `name` needs that vitrim does not run; `None` if that is not known.
pub(super) fn missing(name: &str) -> Option<&'static str> {
    let name = name.to_lowercase();
    MISSING.iter().find(|(part, _)| name.contains(part)).map(|(_, missing)| *missing)
}
