"""Images of any aspect ratio: SigLIP 2's NaFlex models, against transformers' padded and masked batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import vitrim

torch = pytest.importorskip("torch", reason="SKIPPED: torch is not installed")
transformers = pytest.importorskip("transformers", reason="SKIPPED: transformers is not installed")
Image = pytest.importorskip("PIL.Image", reason="SKIPPED: Pillow is not installed")

#: Width and height of images of three aspect ratios.
SIZES = [(56, 40), (23, 71), (48, 48)]
VISION = dict(
    hidden_size=24, intermediate_size=40, num_hidden_layers=3, num_attention_heads=3, patch_size=4, num_patches=16
)


def images() -> list:
    def one(width: int, height: int):
        y, x = np.mgrid[0:height, 0:width]
        channels = [(x * 7 + y * 3) % 256, (x * y) % 256, 128 + 90 * np.sin(x / 5) * np.cos(y / 4)]
        return Image.fromarray(np.stack(channels, -1).astype(np.uint8))

    return [one(*size) for size in SIZES]


def small(kind: str):
    torch.manual_seed(3)
    t = transformers
    if kind == "vision":
        return t.Siglip2VisionModel(t.Siglip2VisionConfig(**VISION))
    text = dict(
        hidden_size=24, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=9,
        projection_size=24,
    )
    config = t.Siglip2Config(vision_config=VISION, text_config=text)
    if kind == "whole":
        return t.Siglip2Model(config)
    config.num_labels = 5
    return t.Siglip2ForImageClassification(config)


def difference(ours: np.ndarray, theirs) -> float:
    theirs = theirs.numpy()
    assert ours.shape == theirs.shape
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.mark.parametrize("kind", ["vision", "whole", "classes"])
def test_a_packed_batch_equals_a_padded_one(kind: str, tmp_path: Path) -> None:
    model = small(kind).eval()
    with torch.no_grad():
        # Large enough for attention to differ between tokens, and for positions to count.
        for name, weight in model.named_parameters():
            if weight.ndim > 1 and "text" not in name:
                weight.mul_(3.0)
    model.save_pretrained(tmp_path)
    processor = transformers.Siglip2ImageProcessor(patch_size=4, max_num_patches=31)
    processor.save_pretrained(tmp_path)
    inputs = processor(images(), return_tensors="pt")
    grids = [tuple(grid) for grid in inputs["spatial_shapes"].tolist()]
    assert len(set(grids)) == 3
    with torch.no_grad():
        tower = model if kind == "vision" else model.vision_model
        theirs = tower(**inputs)
        logits = model(**inputs).logits if kind == "classes" else None
    ours = vitrim.load(tmp_path)
    for place, (image, grid) in enumerate(zip(images(), grids)):
        pixels = ours.preprocess([image])
        assert pixels.shape == (1, 3, 4 * grid[0], 4 * grid[1])
        patches = inputs["pixel_values"][place, : grid[0] * grid[1]].reshape(*grid, 4, 4, 3)
        folded = patches.permute(4, 0, 2, 1, 3).reshape(pixels.shape)
        assert np.abs(pixels - folded.numpy()).max() <= 1e-6
        features = ours.features(pixels, tokens=True)
        last = theirs.last_hidden_state[place, : grid[0] * grid[1]]
        assert difference(features.tokens, last) <= 1e-4
        if kind == "classes":
            assert difference(ours(pixels), logits[place][None]) <= 1e-4
        else:
            assert difference(features.pooled, theirs.pooler_output[place][None]) <= 1e-4
        if kind == "whole":
            assert difference(ours.embed(pixels), theirs.pooler_output[place][None]) <= 1e-4
    if kind == "classes":
        # All three in one packed batch.
        for prediction, row in zip(ours.predict(images(), top_k=5), logits.softmax(-1)):
            for best in prediction.classes:
                assert abs(best.probability - float(row[best.class_index])) <= 1e-5
    with pytest.raises(vitrim.VitrimError, match="no array holds"):
        ours.preprocess(images())


def test_pruning_an_image_does_not_depend_on_its_batch(tmp_path: Path) -> None:
    small("classes").save_pretrained(tmp_path)
    transformers.Siglip2ImageProcessor(patch_size=4, max_num_patches=31).save_pretrained(tmp_path)
    for policy in ["universal", "random:0.6", "tome:0.7"]:
        model = vitrim.load(tmp_path, policy)
        together = model.predict(images())
        for prediction, image in zip(together, images()):
            [alone] = model.predict([image])
            assert [best.probability for best in alone.classes] == [best.probability for best in prediction.classes]
            assert alone.macs == prediction.macs
            for one, other in zip(alone.stages, prediction.stages):
                assert np.array_equal(one.positions, other.positions)


def test_texts_make_a_classifier_of_a_tower(tmp_path: Path) -> None:
    model = small("whole").eval()
    model.save_pretrained(tmp_path)
    processor = transformers.Siglip2ImageProcessor(patch_size=4, max_num_patches=31)
    processor.save_pretrained(tmp_path)
    texts = np.random.default_rng(0).normal(size=(4, 24)).astype(np.float32)
    scale, bias = 20.0, -3.0
    np.savez(
        tmp_path / "classes.npz", texts=texts, logit_scale=np.float32(scale), logit_bias=np.float32(bias),
        names=np.array(["a", "b", "c", "d"]),
    )
    with torch.no_grad():
        pooled = model.vision_model(**processor(images(), return_tensors="pt")).pooler_output
    unit = torch.nn.functional.normalize
    logits = scale * unit(pooled) @ unit(torch.from_numpy(texts)).T + bias
    ours = vitrim.load(tmp_path, classes=tmp_path / "classes.npz")
    for prediction, row in zip(ours.predict(images(), top_k=4), logits.softmax(-1)):
        assert sorted(best.name for best in prediction.classes) == ["a", "b", "c", "d"]
        for best in prediction.classes:
            assert abs(best.probability - float(row[best.class_index])) <= 1e-5


def test_a_policy_is_trained_on_images_of_all_shapes(tmp_path: Path) -> None:
    small("classes").save_pretrained(tmp_path / "model")
    transformers.Siglip2ImageProcessor(patch_size=4, max_num_patches=31).save_pretrained(tmp_path / "model")
    for place, image in enumerate(4 * images()):
        folder = tmp_path / "images" / f"class_{place % 5}"
        folder.mkdir(parents=True, exist_ok=True)
        # No two are alike.
        image.putpixel((0, 0), (place, 0, 0))
        image.save(folder / f"{place}.png")
    model = vitrim.load(tmp_path / "model")
    run = vitrim.train(
        model, tmp_path / "images", out=tmp_path / "run", max_drop=100.0, progress=False, updates=2, images_per_update=4,
        rollouts_per_image=2,
    )
    assert len(vitrim.load(tmp_path / "model", run.policy).predict(images())) == 3


def test_finetuning_says_what_it_needs(tmp_path: Path) -> None:
    small("classes").save_pretrained(tmp_path)
    with pytest.raises(vitrim.VitrimError, match="training weights needs images of one size"):
        vitrim.finetune(vitrim.load(tmp_path), data=tmp_path, out=tmp_path / "run", progress=False)
