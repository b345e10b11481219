"""The compiled part of the package."""

import os
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, Optional, Protocol, Union, final, overload

import numpy as np
import numpy.typing as npt
from typing_extensions import TypeAlias

from vitrim.pruner import Pruner
from vitrim.progress import Teller

Dtype: TypeAlias = Literal["f32", "bf16", "int8"]
PathOrStr: TypeAlias = Union[str, os.PathLike[str]]

class SupportsDlpack(Protocol):
    def __dlpack__(self) -> object: ...

class PilImage(Protocol):
    def convert(self, mode: str) -> Any: ...
    def getbands(self) -> tuple[str, ...]: ...

#: Float32 [B, 3, H, W], C-contiguous: a NumPy array is borrowed, any other object is read by DLPack.
Pixels: TypeAlias = Union[npt.NDArray[np.float32], SupportsDlpack]

class Readable(Protocol):
    def read(self, size: int, /) -> Union[bytes, bytearray, memoryview]: ...

Image: TypeAlias = Union[PathOrStr, bytes, bytearray, memoryview, Readable, PilImage, npt.NDArray[np.uint8]]

__version__: str

class VitrimError(ValueError):
    """An error of vitrim: one line that says what is wrong, where, and what to do."""

@final
class ClassProbability:
    """A class and its probability."""

    def __new__(cls, class_index: int, name: Optional[str], probability: float) -> ClassProbability: ...
    @property
    def class_index(self) -> int:
        """Its index."""
    @property
    def name(self) -> Optional[str]:
        """Its name; None if the checkpoint does not have one. ImageNet-1k's if it has no names and 1,000 classes."""
    @property
    def probability(self) -> float:
        """Softmax probability, 0 to 1."""

@final
class Survivors:
    """The survivors of an image after a stage."""

    def __new__(cls, block: int, positions: npt.NDArray[np.int64]) -> Survivors: ...
    @property
    def block(self) -> int:
        """The 0-based block of the stage: tokens leave before it or, if they merge, after its attention."""
    @property
    def positions(self) -> npt.NDArray[np.int64]:
        """Row-major grid positions of the surviving patch tokens, [n]."""

@final
class Prediction:
    """The answer for one image."""

    def __new__(
        cls, image: Optional[str], classes: list[ClassProbability], stages: list[Survivors], macs: int
    ) -> Prediction: ...
    @property
    def image(self) -> Optional[str]:
        """The image file; None for images that were given as objects."""
    @property
    def classes(self) -> list[ClassProbability]:
        """The most probable classes, best first."""
    @property
    def stages(self) -> list[Survivors]:
        """Survivors of each stage, in order."""
    @property
    def macs(self) -> int:
        """Multiply-accumulate operations for this image, the pruner's own scoring included."""
    @property
    def gmacs(self) -> float:
        """``macs`` in units of 1e9."""

@final
class Tokens:
    """Tokens of the survivors of a batch, image after image: the final ones after the last norm, or those after a block."""

    def __new__(
        cls,
        tokens: npt.NDArray[np.float32],
        offsets: npt.NDArray[np.int64],
        positions: npt.NDArray[np.int64],
        sizes: npt.NDArray[np.float32],
        pooled: npt.NDArray[np.float32],
    ) -> Tokens: ...
    @property
    def tokens(self) -> npt.NDArray[np.float32]:
        """Features of the tokens, [T, D]."""
    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Index of each image's first token, [B + 1]: image b has the rows offsets[b] to offsets[b + 1]."""
    @property
    def positions(self) -> npt.NDArray[np.int64]:
        """Row-major grid position of each token, -1 for a prefix token (class, distillation, register), [T]."""
    @property
    def sizes(self) -> npt.NDArray[np.float32]:
        """Size of each token: more than 1 if others were merged into it, [T]."""
    @property
    def pooled(self) -> npt.NDArray[np.float32]:
        """Input of a classifier, [B, D]; [B, 0] for tokens after a block, which are not pooled."""

@final
class Model:
    """A backbone with its preprocessing and its pruner. Made by :func:`vitrim.load`.

    Threads may share a model: every call has its own buffers, and the GIL is released during the computation. Ctrl-C
    ends a call within a second. A fork starts threads of its own. A pickled model is loaded again from where it came,
    with the same policy and settings; a copy shares the weights.
    """

    def __call__(self, pixel_values: Pixels) -> npt.NDArray[np.float32]:
        """Logits [B, C] of normalised pixels [B, 3, H, W].

        Raises:
            TypeError: For another type of object, or other values than float32.
            ValueError: For another shape, an array that is not C-contiguous, or a value that is not finite.
            VitrimError: If the backbone has no head.
        """
    def predict(self, images: Union[Image, Iterable[Image]], top_k: int = 5) -> list[Prediction]:
        """Classifies images, and reports the tokens left after each stage.

        Args:
            images: One or many: paths (a folder means the images below it), the bytes of image files, open files, PIL
                images, or uint8 arrays [H, W, 3].
            top_k: Number of classes to return.

        Raises:
            TypeError: If an object is not an image.
            VitrimError: If a file cannot be read or decoded, naming it.
        """
    def preprocess(self, images: Union[Image, Iterable[Image]]) -> npt.NDArray[np.float32]:
        """Normalised pixels [B, 3, H, W] of images, resized and cropped according to the checkpoint.

        The pixels are written into the returned array.

        Raises:
            VitrimError: If a file cannot be read or decoded, naming it.
        """
    def embed(self, pixel_values: Pixels) -> npt.NDArray[np.float32]:
        """Embeddings [B, P] of normalised pixels in the space that images share with texts, not normalised.

        Raises:
            VitrimError: If the backbone has no such embedding (CLIP without its projection, classifiers).
        """
    @overload
    def features(self, pixel_values: Pixels, *, tokens: Literal[False] = False) -> npt.NDArray[np.float32]:
        """Pooled features [B, D] of normalised pixels: the input of a classifier."""
    @overload
    def features(self, pixel_values: Pixels, *, tokens: Literal[True], block: Optional[int] = None) -> Tokens:
        """Features of every survivor, with their grid positions and sizes.

        Args:
            pixel_values: Normalised pixels.
            tokens: Features of tokens.
            block: The tokens after this block instead of the final ones, from 0 or, if negative, from the end: without the
                last norm and without prefix tokens. -2 is what LLaVA-like models read.
        """
    def dial(
        self,
        *,
        max_drop: Optional[float] = None,
        max_drift: Optional[float] = None,
        confidence: Optional[float] = None,
        keep: Optional[float] = None,
        gmacs: Optional[float] = None,
    ) -> str:
        """Sets the policy to another point of its calibration record, without images or retraining; describes it.

        Args:
            max_drop: The cheapest threshold whose drop is certified to be at most this, percentage points...
            max_drift: ... or, for a backbone without classes, whose drift is, percent...
            confidence: ... at this confidence; by default as calibrated.
            keep: The mildest threshold that costs no more than a hand-made method at this keep ratio.
            gmacs: The mildest threshold whose measured mean cost is at most this, 1e9 MACs per image.

        Raises:
            VitrimError: If the model has no calibrated policy, or the record has no such point.
        """
    @property
    def origin(self) -> str:
        """The folder or object from which the model was loaded."""
    @property
    def architecture(self) -> str:
        """Name of the architecture."""
    @property
    def img_size(self) -> tuple[int, int]:
        """Input height and width, pixels."""
    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patch grid."""
    @property
    def dim(self) -> int:
        """Channels per token."""
    @property
    def depth(self) -> int:
        """Number of blocks."""
    @property
    def num_prefix_tokens(self) -> int:
        """Number of prefix tokens, which are never pruned."""
    @property
    def num_classes(self) -> int:
        """Number of classes; 0 without a head."""
    @property
    def class_names(self) -> list[str | None]:
        """The name of each class, None for a class without one; empty if the checkpoint has none."""
    @property
    def dtype(self) -> Dtype:
        """Data type of the backbone's arithmetic."""
    @property
    def fingerprint(self) -> str:
        """Hash of the backbone's weights."""
    @property
    def policy(self) -> str:
        """The pruner, described in one line."""
    @property
    def stages(self) -> list[int]:
        """0-based blocks of the stages: tokens leave before them or, if they merge, after their attention."""
    @property
    def dense_gmacs(self) -> float:
        """MACs of an unpruned image, in units of 1e9."""

def load(
    model: PathOrStr,
    policy: Union[PathOrStr, Pruner, None] = None,
    *,
    dtype: Dtype = "f32",
    threads: Optional[int] = None,
    img_size: Optional[tuple[int, int]] = None,
    origin: Optional[str] = None,
    classes: Optional[PathOrStr] = None,
) -> Model: ...
def timm_questions(classes: Sequence[str]) -> tuple[str, list[tuple[str, str, list[str]]]]: ...
def write_checkpoint(folder: PathOrStr, config: str, tensors: Sequence[tuple[str, npt.NDArray[np.float32]]]) -> None: ...
def train(
    model: Model,
    data: PathOrStr,
    *,
    out: Optional[PathOrStr],
    name: PathOrStr,
    start: Optional[PathOrStr],
    preset: Optional[str],
    config: Optional[PathOrStr],
    set: list[str],
    max_drop: Optional[float],
    max_drift: Optional[float],
    confidence: Optional[float],
    split: Optional[str],
    calibrate: bool,
    calibration_split: Optional[str],
    calibration_images: Optional[int],
    device: Optional[str],
    on_bad_image: Optional[str],
    label_map: Optional[PathOrStr],
    label_order: Optional[str],
    teller: Teller,
) -> dict[str, Any]: ...
def train_metric(
    model: Model,
    data: PathOrStr,
    *,
    out: Optional[PathOrStr],
    config: Optional[PathOrStr],
    set: list[str],
    split: Optional[str],
    device: Optional[str],
    on_bad_image: Optional[str],
    label_map: Optional[PathOrStr],
    label_order: Optional[str],
    teller: Teller,
) -> dict[str, Any]: ...
def finetune(
    model: Model,
    data: PathOrStr,
    *,
    out: Optional[PathOrStr],
    config: Optional[PathOrStr],
    set: list[str],
    split: Optional[str],
    held_out_split: Optional[str],
    device: Optional[str],
    weights: Optional[str],
    on_bad_image: Optional[str],
    label_map: Optional[PathOrStr],
    label_order: Optional[str],
    teller: Teller,
) -> dict[str, Any]: ...
@final
class Share:
    """A process that measures shares of a data set for another one: see :mod:`vitrim.ray`."""

    def __new__(
        cls,
        model: Model,
        data: PathOrStr,
        split: Optional[str],
        label_map: Optional[PathOrStr],
        label_order: Optional[str],
    ) -> Share: ...
    def measure(self, task: str, first: int, images: int) -> bytes: ...

def evaluate(
    model: Model,
    data: PathOrStr,
    *,
    split: Optional[str],
    images: Optional[int],
    methods: Optional[list[str]],
    keep: Optional[list[float]],
    speed: Optional[float],
    batch: Optional[int],
    on_bad_image: Optional[str],
    label_map: Optional[PathOrStr],
    label_order: Optional[str],
    report: Optional[PathOrStr],
    teller: Teller,
    gather: Optional[Callable[[str, int, int], list[bytes]]] = None,
) -> dict[str, Any]: ...
def calibrate(
    model: Model,
    data: PathOrStr,
    *,
    policy: Optional[PathOrStr] = None,
    balance: bool = True,
    out: Optional[PathOrStr],
    max_drop: Optional[float],
    max_drift: Optional[float],
    confidence: Optional[float],
    split: Optional[str],
    images: Optional[int],
    on_bad_image: Optional[str],
    label_map: Optional[PathOrStr],
    label_order: Optional[str],
    teller: Teller,
    gather: Optional[Callable[[str, int, int], list[bytes]]] = None,
) -> dict[str, Any]: ...
def compare(
    model: Model,
    data: PathOrStr,
    *,
    report: Optional[PathOrStr],
    policies: list[PathOrStr],
    rivals: list[tuple[str, PathOrStr]],
    split: Optional[str],
    images: Optional[int],
    sweep_split: Optional[str],
    sweep_images: Optional[int],
    methods: Optional[list[str]],
    costs: Optional[list[float]],
    drops: Optional[list[float]],
    near: Optional[int],
    studies: Optional[list[str]],
    speed: Optional[float],
    batch: Optional[int],
    on_bad_image: Optional[str],
    label_map: Optional[PathOrStr],
    label_order: Optional[str],
    teller: Teller,
) -> dict[str, Any]: ...
def report(run: PathOrStr) -> str: ...
