"""Writes the seeds of the fuzz targets, small files of every kind. Needs numpy, Pillow, pyarrow and torch.

    python3 fuzz/make_seeds.py
"""

import argparse
import io
import json
import pathlib
import struct
import tarfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

HERE = pathlib.Path(__file__).parent
SEEDS = HERE / "seeds"
FIXTURES = HERE.parent / "crates/vitrim-vit/tests/fixtures"


def put(target, name, data):
    (SEEDS / target).mkdir(parents=True, exist_ok=True)
    (SEEDS / target / name).write_bytes(data if isinstance(data, bytes) else data.encode())


def config(name, **more):
    """A fixture's configuration, with other fields."""
    return json.dumps({**json.loads((FIXTURES / name / "config.json").read_text()), **more})


def image(form, side=5, **options):
    picture = Image.new("RGB", (side, 4))
    for x in range(side):
        for y in range(4):
            picture.putpixel((x, y), (40 * x, 60 * y, 99))
    out = io.BytesIO()
    (picture.convert("P") if form == "GIF" else picture).save(out, form, **options)
    return out.getvalue()


def images():
    for name, form, options in (
        ("a.jpg", "JPEG", {}), ("progressive.jpg", "JPEG", {"progressive": True}), ("a.png", "PNG", {}),
        ("a.webp", "WEBP", {}), ("lossless.webp", "WEBP", {"lossless": True}), ("a.bmp", "BMP", {}),
        ("a.gif", "GIF", {}), ("a.tif", "TIFF", {}), ("lzw.tif", "TIFF", {"compression": "tiff_lzw"}),
    ):
        put("image", name, image(form, **options))


def configurations():
    for name in ("timm_distilled", "timm_headless", "timm_rectangular"):
        put("timm_config", name, config(name))
    flat = {"architecture": "vit_tiny_patch16_224", "num_classes": 3, "global_pool": "token", "input_size": [3, 224, 224],
            "crop_pct": 0.9, "interpolation": "bilinear", "mean": [0.5] * 3, "std": [0.5] * 3, "labels": ["ant", "bee", "cat"]}
    put("timm_config", "flat", json.dumps(flat))
    put("timm_config", "labels", config("timm_distilled", label_names={"0": "a", "4": "b"}, label_descriptions={"a": "b"}))
    for name in ("hf_vit", "hf_vit_model", "hf_dinov2_reg", "hf_dinov2_swiglu", "hf_deit_teacher_sharded"):
        put("transformers_config", name, config(name))
    processor = (FIXTURES / "hf_dinov2_model/preprocessor_config.json").read_text()
    put("transformers_config", "with_processor", config("hf_dinov2_model") + "\0" + processor)
    put("transformers_config", "gaps", config("hf_vit", id2label={"1": "a", "2": 0, "7": None, "3": "b", "9": "c"}))


def safetensors():
    def file(tensors, **more):
        header, data = dict(more), b""
        for name, (dtype, shape, values) in tensors.items():
            header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [len(data), len(data) + len(values)]}
            data += values
        text = json.dumps(header).encode()
        return struct.pack("<Q", len(text)) + text + data

    two = {"a": ("F32", [2], struct.pack("<2f", 1, 2)), "b": ("BF16", [1, 2], b"\x80\x3f\0\0")}
    put("safetensors", "two", file(two, __metadata__={"format": "pt"}))
    put("safetensors", "scalar", file({"head.weight": ("F16", [], b"\0\x3c"), "n": ("I64", [0], b"")}))
    put("safetensors", "index", json.dumps({"weight_map": {"a": "model.safetensors"}}))


def pickles():
    def saved(value, **options):
        out = io.BytesIO()
        torch.save(value, out, **options)
        return out.getvalue()

    state = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2).half()}
    arguments = argparse.Namespace(path=pathlib.PurePosixPath("/data"))
    script = {"epoch": 1, "state_dict": {"module." + k: v for k, v in state.items()}, "state_dict_ema": state,
              "args": arguments, "metric": np.float64(1.5)}
    put("pickle", "plain.pth", saved(state))
    put("pickle", "legacy.pth", saved(state, _use_new_zipfile_serialization=False))
    put("pickle", "script.pth.tar", saved(script))
    put("pickle", "legacy_script.pth.tar", saved(script, _use_new_zipfile_serialization=False))
    put("pickle", "module.pt", saved(torch.nn.Linear(2, 2)))


def data_sets():
    def shard(members):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w") as archive:
            for name, content in members:
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return out.getvalue()[:6144]

    png, jpeg = image("PNG", 2), image("JPEG", 2)
    put("tar", "labels", shard([("0.png", png), ("0.cls", b"1"), ("1.png", png), ("1.json", b'{"label": 3}')]))
    put("tar", "long_name", shard([("a" * 120 + "/0.jpg", jpeg), ("a" * 120 + "/0.cls", b"cat")]))
    features = {"image": {"_type": "Image"}, "label": {"names": ["a", "b"], "_type": "ClassLabel"}}
    table = pa.table(
        {"image": [{"bytes": png, "path": "a.png"}, {"bytes": jpeg, "path": None}], "label": pa.array([0, 1], pa.int64())},
        metadata={"huggingface": json.dumps({"info": {"features": features}})},
    )
    for name, options in (("snappy", {}), ("plain", {"compression": "none", "use_dictionary": False})):
        out = io.BytesIO()
        pq.write_table(table, out, **options)
        put("parquet", name, out.getvalue())
    lists = ("a.png 0\nb.png 1\n", "path,label\na.png,cat\nb.png,3.0\n", "path\tlabel\na.png\t0\n",
             '{"path": "a.png", "label": 1}\n{"file_name": "b.png", "label": "cat"}\n')
    maps = ('{"cat": 0, "dog": -1, "3": null}', "class,index\ncat,0\ndog,-1\n", "cat\t0\n", "cat\ndog\n")
    for target, texts in (("list", lists), ("label_map", maps)):
        for kind, text in enumerate(texts):
            put(target, str(kind), bytes([kind]) + text.encode())
    for k, pattern in enumerate(("train-{000..012}.tar", "{a,b}{0..3}.parquet", "x{", "{1..99999999}.tar", "{{a,b},c}.csv")):
        put("braces", str(k), pattern)


def hub():
    large = {"rfilename": "model.safetensors", "size": 9, "lfs": {"sha256": "c" * 64}}
    small = [{"rfilename": name, "size": 2, "blobId": "b" * 40} for name in ("config.json", "data/train-0.parquet")]
    bare = [{"rfilename": name} for name in ("policy.json", "policy.safetensors")]
    for kind in range(3):
        put("hub_listing", str(kind), bytes([kind]) + json.dumps({"sha": "a" * 40, "siblings": [large, *small, *bare]}).encode())


def policies():
    backbone = {"architecture": "vit_tiny_patch16_224", "img_size": [64, 64], "patch_size": 16, "dim": 16, "depth": 4,
                "fingerprint": "0" * 32}
    observation = {"layer_norm": True, "position": True, "stage": True, "cls_attention": True, "pair": False,
                   "pair_tokens": False, "context": False}
    actor = {"dim": 16, "positions": 16, "stages": 2, "scalars": 1, "shortcut": False, "context": False,
             "layer_norm": True, "hidden": [32, 32], "activation": "gelu", "outputs": 2}
    for name, read_out in (("top_r", {"kind": "top-r", "keep": [0.7, 0.5]}), ("sample", {"kind": "sample", "seed": 3}),
                           ("threshold", {"kind": "threshold", "threshold": 0.5})):
        put("policy", name, json.dumps({"version": 1, "vitrim": "0.1.0", "backbone": backbone, "stages": [1, 2],
                                        "departure": "drop", "observation": observation, "actor": actor,
                                        "read_out": read_out, "weights_hash": "", "calibration": None}))


def overlays():
    file = 'name = "mine"\nlayers = [1, 2]\n\n[optimizer]\nlearning_rate = 3e-4\nclip = 0.1\n\n[read_out]\nthreshold = 0.5\n'
    for name, text in (("file", file), ("sets", "\0updates=3\noptimizer.warm=true\nname=drop\nlayers=[1, 2]\n"),
                       ("both", file + "\0read_out=sample\nnote=\"a b\"\n"), ("wrong", "updtes = 3\n\0optimizer.clip=x\n"),
                       ("dotted", 'optimizer.clip = 1\noptimizer = { warm = true }\nname = \'\'\'x\'\'\'\n')):
        put("overlay", name, text)


if __name__ == "__main__":
    for make in (images, configurations, safetensors, pickles, data_sets, hub, policies, overlays):
        make()
