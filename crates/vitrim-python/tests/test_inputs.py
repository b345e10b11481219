"""Inputs: every valid kind of pixels is accepted, and every invalid one gives a clear error."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import vitrim


class OnlyDlpack:
    """An array of some other library: nothing but the protocol."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self.array.__dlpack__(**kwargs)

    def __dlpack_device__(self) -> Any:
        return self.array.__dlpack_device__()


@pytest.fixture(scope="module")
def model(tiny: Path) -> vitrim.Model:
    return vitrim.load(tiny, "cls-attention:0.7")


@pytest.fixture()
def pixels() -> np.ndarray:
    return np.random.default_rng(2).normal(size=(5, 3, 32, 32)).astype(np.float32)


def test_batches_of_any_size_agree(model: vitrim.Model, pixels: np.ndarray) -> None:
    logits = model(pixels)
    assert logits.shape == (5, 3) and np.ptp(logits, axis=0).min() > 1e-3
    for i in range(5):
        assert np.allclose(model(pixels[i : i + 1]), logits[i], atol=1e-5)
    assert model(pixels[:0]).shape == (0, 3)
    assert model.features(pixels[:0]).shape == (0, 32)
    assert model.features(pixels[:0], tokens=True).offsets.tolist() == [0]


def test_dlpack_is_taken(model: vitrim.Model, pixels: np.ndarray) -> None:
    assert np.array_equal(model(OnlyDlpack(pixels)), model(pixels))


def test_read_only_arrays_are_borrowed(model: vitrim.Model, pixels: np.ndarray) -> None:
    logits = model(pixels)
    pixels.setflags(write=False)
    assert np.array_equal(model(pixels), logits)


@pytest.mark.parametrize(
    ("spoil", "kind", "words"),
    [
        (lambda p: p.astype(np.float64), TypeError, ["float64", "float32", "astype"]),
        (lambda p: (p * 9).astype(np.uint8), TypeError, ["uint8", "float32", "preprocess"]),
        (lambda p: p.astype(np.float16), TypeError, ["float16"]),
        (lambda p: p.astype(">f4"), TypeError, [">f4"]),
        (lambda p: p[0], ValueError, ["(3, 32, 32)", "(B, 3, 32, 32)", "pixel_values[None]"]),
        (lambda p: p[:, :1], ValueError, ["(5, 1, 32, 32)"]),
        (lambda p: p[:, :, :16], ValueError, ["(5, 3, 16, 32)"]),
        (lambda p: np.ascontiguousarray(p.transpose(0, 2, 3, 1)), ValueError, ["(5, 32, 32, 3)"]),
        (lambda p: p[..., ::-1], ValueError, ["C-contiguous", "ascontiguousarray"]),
        (lambda p: p[::2], ValueError, ["C-contiguous"]),
        (lambda p: np.asfortranarray(p), ValueError, ["C-contiguous"]),
        (lambda p: spoiled(p, np.nan), ValueError, ["pixel_values[3, 1, 4, 7] is NaN", "finite"]),
        (lambda p: spoiled(p, -np.inf), ValueError, ["pixel_values[3, 1, 4, 7] is -inf"]),
        (lambda p: p.tolist(), TypeError, ["list", "NumPy array", "__dlpack__"]),
        (lambda p: "photo.jpg", TypeError, ["str", "preprocess"]),
        (lambda p: OnlyDlpack(p.astype(np.int32)), TypeError, ["int32"]),
        (lambda p: OnlyDlpack(p.astype(">f4")), TypeError, ["OnlyDlpack", "DLPack"]),
    ],
)
def test_wrong_pixels_are_refused(
    spoil: Any, kind: type[Exception], words: list[str], model: vitrim.Model, pixels: np.ndarray
) -> None:
    for call in (model, model.features):
        with pytest.raises(kind) as refusal:
            call(spoil(pixels))
        message = str(refusal.value)
        assert "\n" not in message
        for word in ["pixel_values", *words]:
            assert word in message, message


def spoiled(pixels: np.ndarray, value: float) -> np.ndarray:
    pixels[3, 1, 4, 7] = value
    return pixels


def test_an_unaligned_array_is_refused(model: vitrim.Model, pixels: np.ndarray) -> None:
    raw = np.frombuffer(b"\0" + pixels.tobytes(), np.uint8)[1:]
    odd = raw.view(np.float32).reshape(pixels.shape)
    if odd.flags.aligned:
        pytest.skip("SKIPPED: NumPy gave an aligned array")
    with pytest.raises(ValueError, match="contiguous"):
        model(odd)


def test_images_of_all_kinds_give_one_answer(model: vitrim.Model, photo: Path, tmp_path: Path) -> None:
    with Image.open(photo) as opened:
        image = opened.convert("RGB")
    # Without loss: decoders of JPEG may differ in the last bit.
    file = tmp_path / "photo.png"
    image.save(file)
    array = np.asarray(image)
    answers = [model.predict(given, top_k=2)[0] for given in (str(file), file, image, array, array[:, ::-1][:, ::-1])]
    assert answers[0].image == str(file) and answers[2].image is None
    for answer in answers:
        assert [c.class_index for c in answer.classes] == [c.class_index for c in answers[0].classes]
        assert answer.classes[0].probability == pytest.approx(answers[0].classes[0].probability)
        assert answer.classes[0].name == f"class {answer.classes[0].class_index}"
        assert [s.positions.tolist() for s in answer.stages] == [s.positions.tolist() for s in answers[0].stages]
        assert [len(s.positions) for s in answer.stages] == [11, 8, 5]
        assert 0 < answer.gmacs < model.dense_gmacs and answer.macs == round(answer.gmacs * 1e9)
    assert "class_index=" in repr(answers[0]) and "left=[11, 8, 5]" in repr(answers[0])


def test_many_images_come_in_order(model: vitrim.Model, data: Path) -> None:
    files = sorted((data / "test").rglob("*.png"))
    answers = model.predict(files)
    assert [answer.image for answer in answers] == [str(file) for file in files]
    folder = model.predict(data / "test" / "class_0")
    assert sorted(a.image for a in folder) == sorted(str(f) for f in files if f.parent.name == "class_0")
    batch = np.stack([np.asarray(Image.open(file)) for file in files[:20]])
    for one, other in zip(model.predict(batch), answers):
        assert one.classes[0].probability == pytest.approx(other.classes[0].probability)
    assert np.allclose(model.preprocess(files), model.preprocess([Image.open(f) for f in files]))
    assert model.predict([]) == []


def test_encoded_images_are_taken_as_bytes_and_as_open_files(model: vitrim.Model, photo: Path, tmp_path: Path) -> None:
    encoded = photo.read_bytes()
    expected = model.predict(photo)[0].classes[0].probability
    # Whoever has just written a file leaves it at its end.
    written = io.BytesIO()
    written.write(encoded)
    with open(photo, "rb") as file, open(photo, "rb", buffering=0) as raw, zipped(photo, tmp_path) as member:
        given = [encoded, bytearray(encoded), memoryview(encoded), io.BytesIO(encoded), written, file, raw, member]
        answers = model.predict(given)
        assert model.predict(file)[0].classes[0].probability == expected, "read again from its start"
    assert [answer.classes[0].probability for answer in answers] == [expected] * len(given)
    assert [answer.image for answer in answers] == [None] * len(given)
    assert model.predict(encoded)[0].classes[0].probability == expected
    assert np.array_equal(model.preprocess(io.BytesIO(encoded)), model.preprocess(photo))
    rest = Pipe(encoded)
    assert model.predict(rest)[0].classes[0].probability == expected, "it cannot be wound back, and need not be"


def zipped(photo: Path, place: Path) -> Any:
    with zipfile.ZipFile(place / "photos.zip", "w") as archive:
        archive.write(photo, "photo.jpg")
    return zipfile.ZipFile(place / "photos.zip").open("photo.jpg")


class Pipe(io.RawIOBase):
    """A file that gives a few bytes at a time and cannot be wound back."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        part, self.data = self.data[:100], self.data[100:]
        return part


def test_random_decisions_are_keyed_by_what_an_image_shows(tiny: Path, tmp_path: Path) -> None:
    """Not by its name or its place: two images called alike draw apart, one image draws alike wherever it lies."""
    model = vitrim.load(tiny, "random:0.5")
    rng = np.random.default_rng(11)
    arrays = [rng.integers(0, 256, (32, 32, 3), dtype=np.uint8) for _ in range(2)]
    files = [tmp_path / folder / "0001.png" for folder in ("a", "b")]
    for file, array in zip(files, arrays):
        file.parent.mkdir()
        Image.fromarray(array).save(file)
    copy = tmp_path / "copy.bmp"
    Image.fromarray(arrays[0]).save(copy)

    def survivors(given: Any) -> list[list[list[int]]]:
        return [[stage.positions.tolist() for stage in answer.stages] for answer in model.predict(given)]

    first, second = survivors(files)
    assert first != second
    assert survivors([arrays[1], copy, arrays[0]]) == [second, first, first]


def test_grey_and_transparent_images_are_converted(model: vitrim.Model) -> None:
    grey = Image.fromarray(np.random.default_rng(3).integers(0, 256, (40, 40), dtype=np.uint8))
    by_mode = {mode: model.predict(grey.convert(mode))[0].classes[0].probability for mode in ("L", "RGB", "RGBA")}
    assert by_mode["L"] == by_mode["RGB"] == by_mode["RGBA"]


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        (np.zeros((8, 8, 3), np.float32), TypeError, ["image 0", "float32", "uint8"]),
        (np.zeros((8, 8), np.uint8), ValueError, ["image 0", "(8, 8)", "(H, W, 3)"]),
        (np.zeros((3, 8, 8), np.uint8), ValueError, ["(3, 8, 8)"]),
        (np.zeros((0, 8, 3), np.uint8), ValueError, ["(0, 8, 3)"]),
        ([np.zeros((8, 8, 3), np.uint8), 7], TypeError, ["image 1", "int"]),
        (7, TypeError, ["image 0 is of type int"]),
        ("no/such.jpg", vitrim.VitrimError, ["no/such.jpg"]),
        (b"", vitrim.VitrimError, ["image 0", "no bytes"]),
        ([b"no image"], vitrim.VitrimError, ["image 0"]),
        (io.StringIO("text"), TypeError, ["image 0", "read() gives str", '"rb"']),
        (io.BytesIO(), vitrim.VitrimError, ["image 0", "no bytes"]),
    ],
)
def test_what_is_no_image_is_refused(given: Any, kind: type[Exception], words: list[str], model: vitrim.Model) -> None:
    with pytest.raises(kind) as refusal:
        model.predict(given)
    for word in words:
        assert word in str(refusal.value), str(refusal.value)


def test_a_corrupt_file_is_named(model: vitrim.Model, tmp_path: Path, photo: Path) -> None:
    broken = tmp_path / "broken.jpg"
    broken.write_bytes(photo.read_bytes()[:500])
    with pytest.raises(vitrim.VitrimError, match="broken.jpg"):
        model.predict([photo, broken])
    with open(broken, "rb") as file, pytest.raises(vitrim.VitrimError, match="broken.jpg"):
        model.predict(file)
    with pytest.raises(vitrim.VitrimError, match="image 1"):
        model.predict([photo, broken.read_bytes()])
