"""Pruners written in Python."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import numpy as np
import numpy.typing as npt


class Pruner:
    """A pruner in Python. Subclass it, write :meth:`decide`, and give an instance as ``policy``.

    For research: at every stage the tokens are copied into arrays and the GIL is held during the call, so that threads
    wait for each other. The MACs saved are counted as for any pruner, but its own time is that of Python code.

    >>> class Half(Pruner):
    ...     stages = [3, 6]
    ...     def decide(self, stage, tokens, offsets, origins, cls_attention):
    ...         return (origins % 2 == 0) | (stage > 0)
    """

    #: 0-based blocks before which it acts, ascending; None for a quarter, half and three quarters of the depth.
    stages: Optional[Sequence[int]] = None

    def decide(
        self,
        stage: int,
        tokens: npt.NDArray[np.float32],
        offsets: npt.NDArray[np.int64],
        origins: npt.NDArray[np.int64],
        cls_attention: Optional[npt.NDArray[np.float32]],
    ) -> npt.NDArray[np.bool_]:
        """Which of the T tokens of a batch of B images stay.

        Args:
            stage: Index into :attr:`stages`, from 0.
            tokens: Residual stream entering the block, [T, D]: the survivors, image after image.
            offsets: Index of each image's first token, [B + 1]: image b has rows ``offsets[b]`` to ``offsets[b + 1]``.
            origins: Row-major grid position of each token, -1 for a prefix token, [T].
            cls_attention: The class token's attention in the block before, mean over heads, [T] (without a class
                token: the mean attention received). None before block 0, because no attention has run yet.

        Returns:
            One bool per token, [T]; False removes the token. Prefix tokens stay in any case. If the backbone pools its
            patch tokens, each image must keep at least one.
        """
        raise NotImplementedError(f"{type(self).__qualname__} must define decide")

    def macs(self, stage: int, tokens: int) -> int:
        """Multiply-accumulate operations of scoring one image of ``tokens`` tokens: a part of its cost."""
        return 0
