"""The Python blocks of docs/checkpoints.md, as printed, on small models of random weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vitrim
from test_docs import REPOSITORY, blocks

torch = pytest.importorskip("torch", reason="SKIPPED: torch is not installed")
transformers = pytest.importorskip("transformers", reason="SKIPPED: transformers is not installed")

PAGE = REPOSITORY / "docs/checkpoints.md"
TOWER = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2, image_size=32, patch_size=8)
TEXT = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, vocab_size=64)
SENTENCES = ["a photo of a cat.", "a photo of a dog."]


def printed(words: str) -> Any:
    """The one block that has `words`."""
    (found,) = [block for block in blocks(PAGE) if words in block.co_names + block.co_varnames]
    return found


def lively(model: Any) -> Any:
    """Random weights with which every part of the model matters to its output."""
    torch.manual_seed(0)
    for name, parameter in model.named_parameters():
        one = "norm" in name and name.endswith("weight")
        parameter.data = float(one) + 0.2 * torch.randn_like(parameter)
    return model.eval()


def words_tokenizer() -> Any:
    """A tokenizer of the words of `SENTENCES`."""
    tokenizers = pytest.importorskip("tokenizers", reason="SKIPPED: tokenizers is not installed")
    words = sorted({word for sentence in SENTENCES for word in sentence.replace(".", " .").split()})
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<eos>", "<unk>", "<image>", *words])}
    inner = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        eos_token="<eos>",
        unk_token="<unk>",
        model_input_names=["input_ids"],
    )


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def test_the_script_for_transformers_writes_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "google/siglip-base-patch16-224"
    text = dict(TEXT, max_position_embeddings=8, projection_size=32)
    model = lively(transformers.SiglipModel(transformers.SiglipConfig(vision_config=TOWER, text_config=text)))
    model.save_pretrained(folder)
    images = transformers.SiglipImageProcessorPil(size={"height": 32, "width": 32})
    transformers.SiglipProcessor(images, words_tokenizer()).save_pretrained(folder)
    monkeypatch.chdir(tmp_path)
    exec(printed("AutoProcessor"), {"__name__": "docs"})

    ids = words_tokenizer()(SENTENCES, padding="max_length", max_length=8, return_tensors="pt")["input_ids"]
    pixels = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        theirs = model(input_ids=ids, pixel_values=pixels).logits_per_image.numpy()
    ours = vitrim.load(folder, classes=tmp_path / "classes.safetensors")
    assert ours.class_names == ["cat", "dog"] and np.ptp(theirs, axis=1).min() > 0
    assert difference(ours(pixels), theirs) <= 1e-4


def test_the_script_for_open_clip_writes_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_clip = pytest.importorskip("open_clip", reason="SKIPPED: open_clip is not installed")
    safetensors = pytest.importorskip("safetensors.torch", reason="SKIPPED: safetensors is not installed")
    config = dict(
        embed_dim=24,
        init_logit_bias=-10,
        custom_text=True,
        vision_cfg=dict(image_size=224, timm_model_name="vit_base_patch16_siglip_224", timm_pool="map", timm_proj="none"),
        text_cfg=dict(context_length=16, vocab_size=49408, width=16, heads=2, layers=1, no_causal_mask=True),
    )
    # A small tower under timm's name.
    small = dict(embed_dim=24, depth=2, num_heads=2)
    create = open_clip.timm_model.timm.create_model
    monkeypatch.setattr(open_clip.timm_model.timm, "create_model", lambda name, **args: create(name, **args, **small))
    model = lively(open_clip.CustomTextCLIP(**{key: value for key, value in config.items() if key != "custom_text"}))
    # The folder of the Hub's cache that holds the model.
    hub = tmp_path / "hub/models--timm--ViT-B-16-SigLIP"
    snapshot = hub / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (hub / "refs").mkdir()
    (hub / "refs/main").write_text("0" * 40)
    written = {"model_cfg": config, "preprocess_cfg": dict(mean=[0.5] * 3, std=[0.5] * 3)}
    (snapshot / "open_clip_config.json").write_text(json.dumps(written))
    safetensors.save_file(model.state_dict(), snapshot / "open_clip_model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    exec(printed("create_model_from_pretrained"), {"__name__": "docs"})

    ids = open_clip.SimpleTokenizer(context_length=16)(SENTENCES)
    pixels = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        theirs = model.get_logits(pixels, ids)[0].numpy()
        embedding = model.encode_image(pixels)
    # vitrim reads the geometry from timm's name, and this tower is small: by timm's description.
    tower = tmp_path / "tower"
    tower.mkdir()
    described = {"architecture": "vit_base_patch16_siglip_224", "num_classes": 0, "model_args": small}
    (tower / "config.json").write_text(json.dumps(described))
    weights = {f"{n.removeprefix('visual.trunk.')}": t for n, t in model.state_dict().items() if "visual.trunk." in n}
    safetensors.save_file(weights, tower / "model.safetensors")
    ours = vitrim.load(tower, classes=tmp_path / "classes.npz")
    assert ours.class_names == ["cat", "dog"]
    assert difference(ours.embed(pixels), embedding.numpy()) <= 1e-4
    assert difference(ours(pixels), theirs) <= 1e-4


def test_tokens_are_fed_to_a_model_of_images_and_texts(
    data: Path, photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "openai-clip-vit-large-patch14-336"
    tower = transformers.CLIPVisionConfig(**TOWER)
    language = transformers.LlamaConfig(max_position_embeddings=64, num_key_value_heads=2, pad_token_id=0, **TEXT)
    llava = lively(transformers.LlavaForConditionalGeneration(transformers.LlavaConfig(
        vision_config=tower, text_config=language, image_token_index=3, image_token_id=3,
        vision_feature_layer=-2, vision_feature_select_strategy="default", image_seq_length=16,
    )))
    vision = transformers.CLIPVisionModel(tower).eval()
    theirs = llava.model.vision_tower.state_dict()
    known = vision.state_dict()
    assert set(theirs) == set(known)
    vision.load_state_dict(theirs)
    vision.save_pretrained(folder)
    size = {"height": 32, "width": 32}
    transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=size).save_pretrained(folder)
    vitrim.train(
        folder, data, out=tmp_path / "runs/my", max_drift=100.0, confidence=0.5, progress=False,
        updates=1, images_per_update=8, reward={"reference_images": 8},
    )
    (tmp_path / "photo.jpg").write_bytes(photo.read_bytes())
    monkeypatch.chdir(tmp_path)
    block = printed("multi_modal_projector")
    with torch.no_grad():
        names = {"__name__": "docs", "vitrim": vitrim, "torch": torch, "llava": llava}
        exec(block, names)
        n = len(names["tokens"])
        assert 0 < n <= 16 and names["embeddings"].shape == (n, 32)
        # The prompt has n tokens <image>, whose embeddings these are.
        ids = torch.tensor([[5, *[3] * n, 6, 7]])
        inputs = llava.get_input_embeddings()(ids)
        inputs[ids == 3] = names["embeddings"]
        assert llava(inputs_embeds=inputs).logits.shape == (1, n + 3, 64)
        # Without a policy, it is what LLaVA makes of the image itself.
        dense = vitrim.load(folder)
        exec(block, {**names, "vitrim": type("Dense", (), {"load": lambda *_, **__: dense})})
        pixels = torch.from_numpy(dense.preprocess(["photo.jpg"]))
        ids = torch.tensor([[5, *[3] * 16, 6, 7]])
        whole = llava(input_ids=ids, pixel_values=pixels).logits
        tokens = torch.from_numpy(dense.features(pixels.numpy(), tokens=True, block=-2).tokens)
        inputs = llava.get_input_embeddings()(ids)
        inputs[ids == 3] = llava.model.multi_modal_projector(tokens)
        ours = llava(inputs_embeds=inputs).logits
    assert difference(ours.numpy(), whole.numpy()) <= 1e-4
