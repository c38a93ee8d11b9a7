"""OLoRA (Buyukakyuz 2024, "OLoRA: Orthonormal Low-Rank Adaptation of Large Language Models")."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from jaxft.adapters.lora import LoRA
from jaxft.adapters.residual import Residual
from jaxft.config.component import config
from jaxft.tune.base import LinearMap


@config
class OLoRA(LoRA):
    """LoRA that starts with orthonormal columns, of the QR decomposition of the weights.

    Its authors find that it learns faster than LoRA, at smaller learning rates: 2e-5 to 2e-4. An alpha equal to the
    rank is usual.
    """

    lr_scale: ClassVar[float] = 1.0  # tune/learning_rate.py

    def part_for(self, one: LinearMap) -> "Orthonormal":
        """See Targeted."""
        return Orthonormal(self.rank_of(one), self.scale_of(one), self.dropout, self.lr_ratio)


@dataclass(frozen=True)
class Orthonormal(Residual):
    """The first columns of Q and rows of R, W^T = Q R (Buyukakyuz 2024, algorithm 1)."""

    def factors(self, kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        q, r = np.linalg.qr(kernel.T.astype(np.float32))
        return r[: self.rank].T, q[:, : self.rank].T
