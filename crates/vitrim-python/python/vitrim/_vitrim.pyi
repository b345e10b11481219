"""The compiled part of the package."""

import os
from collections.abc import Iterable, Sequence
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

#: Float32 [B, 3, H, W], C-contiguous: a NumPy array is borrowed, anything else comes by DLPack.
Pixels: TypeAlias = Union[npt.NDArray[np.float32], SupportsDlpack]
Image: TypeAlias = Union[PathOrStr, PilImage, npt.NDArray[np.uint8]]

__version__: str

class VitrimError(ValueError):
    """What vitrim refuses: one line that says what is wrong, where, and what to do."""

@final
class ClassProbability:
    """A class and how probable it is."""

    @property
    def class_index(self) -> int:
        """Its index."""
    @property
    def name(self) -> Optional[str]:
        """Its name; None where the checkpoint does not say."""
    @property
    def probability(self) -> float:
        """Softmax probability, 0 to 1."""

@final
class Survivors:
    """Who is left of an image after a stage."""

    @property
    def block(self) -> int:
        """The 0-based block that the stage lies before; in, after its attention, where leaving means merging."""
    @property
    def positions(self) -> npt.NDArray[np.int64]:
        """Row-major grid positions of the surviving patch tokens, [n]."""

@final
class Prediction:
    """One image's answer."""

    @property
    def image(self) -> Optional[str]:
        """The image file; None for images that were given as such."""
    @property
    def classes(self) -> list[ClassProbability]:
        """The most probable classes, best first."""
    @property
    def stages(self) -> list[Survivors]:
        """Survivors of each stage, in order."""
    @property
    def macs(self) -> int:
        """Multiply-accumulate operations that this image took, the pruner's own scoring included."""
    @property
    def gmacs(self) -> float:
        """The same in units of 1e9."""

@final
class Tokens:
    """Final tokens of the survivors of a batch, after the last norm: the images back to back."""

    @property
    def tokens(self) -> npt.NDArray[np.float32]:
        """[T, D]."""
    @property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Where each image starts, [B + 1]: image b has the rows offsets[b] to offsets[b + 1]."""
    @property
    def positions(self) -> npt.NDArray[np.int64]:
        """Row-major grid position of each token, -1 for a prefix token (class, distillation, register), [T]."""
    @property
    def pooled(self) -> npt.NDArray[np.float32]:
        """What a classifier would see, [B, D]."""

@final
class Model:
    """A backbone with its preprocessing, and who decides who stays. Made by :func:`vitrim.load`.

    Threads may share one: every call has buffers of its own, and the GIL is released while it computes.
    """

    def __call__(self, pixel_values: Pixels) -> npt.NDArray[np.float32]:
        """Logits [B, C] of normalised pixels [B, 3, H, W].

        Raises:
            TypeError: For another type of object, or other values than float32.
            ValueError: For another shape, an array that is not C-contiguous, or a value that is not finite.
            VitrimError: If the backbone has no head.
        """
    def predict(self, images: Union[Image, Iterable[Image]], top_k: int = 5) -> list[Prediction]:
        """Classes of images, and who the answers were made from.

        Args:
            images: One or many: paths (a folder stands for the images below it), PIL images, or uint8 arrays [H, W, 3].
            top_k: Classes to name.

        Raises:
            TypeError: If something is no image.
            VitrimError: If a file cannot be read or decoded, naming it.
        """
    def preprocess(self, images: Union[Image, Iterable[Image]]) -> npt.NDArray[np.float32]:
        """Normalised pixels [B, 3, H, W] of images, resized and cropped as the checkpoint says.

        They are written into the array that is returned, and Ctrl-C is heard while that is done.

        Raises:
            VitrimError: If a file cannot be read or decoded, naming it.
        """
    @overload
    def features(self, pixel_values: Pixels, *, tokens: Literal[False] = False) -> npt.NDArray[np.float32]:
        """Pooled features [B, D] of normalised pixels: what a classifier would see."""
    @overload
    def features(self, pixel_values: Pixels, *, tokens: Literal[True]) -> Tokens:
        """Features of every survivor, with their grid positions."""
    def dial(
        self,
        *,
        max_drop: Optional[float] = None,
        max_drift: Optional[float] = None,
        confidence: Optional[float] = None,
        keep: Optional[float] = None,
        gmacs: Optional[float] = None,
    ) -> str:
        """Sets the policy to another point of its calibration record, and says which: without images or retraining.

        Args:
            max_drop: The cheapest threshold whose drop is certified to be at most this, percentage points...
            max_drift: ... or, of a backbone without classes, whose drift is, percent...
            confidence: ... at this confidence; what is left out stays as calibrated.
            keep: The mildest threshold that costs no more than a hand-made method at this keep ratio.
            gmacs: The mildest threshold whose measured mean cost is at most this, 1e9 MACs an image.

        Raises:
            VitrimError: If the model has no calibrated policy, or the record has no such point.
        """
    @property
    def origin(self) -> str:
        """What it was loaded from."""
    @property
    def architecture(self) -> str:
        """Architecture's name."""
    @property
    def img_size(self) -> tuple[int, int]:
        """Input height and width, pixels."""
    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of the patch grid."""
    @property
    def dim(self) -> int:
        """Channels of a token."""
    @property
    def depth(self) -> int:
        """Blocks."""
    @property
    def num_prefix_tokens(self) -> int:
        """Tokens that are never pruned."""
    @property
    def num_classes(self) -> int:
        """Classes; 0 without a head."""
    @property
    def class_names(self) -> list[str]:
        """The name of each class; empty where the checkpoint does not say."""
    @property
    def dtype(self) -> Dtype:
        """In what it multiplies."""
    @property
    def policy(self) -> str:
        """Who decides who stays, in one line."""
    @property
    def stages(self) -> list[int]:
        """0-based blocks before which tokens leave; in which, after the attention, where leaving means merging."""
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
) -> Model: ...
def timm_questions(classes: Sequence[str]) -> tuple[str, list[tuple[str, str, list[str]]]]: ...
def write_checkpoint(folder: PathOrStr, config: str, tensors: Sequence[tuple[str, npt.NDArray[np.float32]]]) -> None: ...
def train(
    model: Model,
    data: PathOrStr,
    *,
    out: Optional[PathOrStr],
    name: PathOrStr,
    preset: str,
    config: Optional[PathOrStr],
    set: list[str],
    max_drop: Optional[float],
    max_drift: Optional[float],
    confidence: float,
    split: str,
    calibration_split: Optional[str],
    calibration_images: int,
    device: str,
    on_bad_image: str,
    teller: Teller,
) -> dict[str, Any]: ...
def finetune(
    model: Model,
    data: PathOrStr,
    *,
    out: PathOrStr,
    config: Optional[PathOrStr],
    set: list[str],
    split: str,
    held_out_split: str,
    device: str,
    weights: str,
    on_bad_image: str,
    teller: Teller,
) -> dict[str, Any]: ...
def evaluate(
    model: Model,
    data: PathOrStr,
    *,
    split: Optional[str],
    images: Optional[int],
    methods: list[str],
    keep: Optional[list[float]],
    speed: Optional[float],
    batch: int,
    on_bad_image: str,
    report: Optional[PathOrStr],
    command: str,
    teller: Teller,
) -> dict[str, Any]: ...
def calibrate(
    model: Model,
    data: PathOrStr,
    *,
    max_drop: Optional[float],
    max_drift: Optional[float],
    confidence: float,
    split: str,
    images: int,
    on_bad_image: str,
    teller: Teller,
) -> dict[str, Any]: ...
def compare(
    model: Model,
    data: PathOrStr,
    *,
    report: PathOrStr,
    policies: list[PathOrStr],
    rivals: list[tuple[str, PathOrStr]],
    split: Optional[str],
    images: Optional[int],
    sweep_split: str,
    sweep_images: int,
    methods: list[str],
    costs: list[float],
    drops: list[float],
    near: Optional[int],
    studies: list[str],
    speed: Optional[float],
    batch: int,
    on_bad_image: str,
    command: str,
    teller: Teller,
) -> dict[str, Any]: ...
def report(run: PathOrStr) -> str: ...
