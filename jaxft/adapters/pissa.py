"""PiSSA (Meng et al. 2024, "PiSSA: Principal Singular Values and Singular Vectors Adaptation of Large Language
Models")."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from jaxft.adapters.lora import LoRA, LowRank
from jaxft.adapters.residual import Residual
from jaxft.config.component import config
from jaxft.tune.base import LinearMap


@config
class PiSSA(LoRA):
    """LoRA that starts with the largest singular values of the weights.

    Its authors find that it learns faster than LoRA, at smaller learning rates: 2e-5 to 2e-4. An alpha equal to the
    rank is usual.
    """

    lr_scale: ClassVar[float] = 1.0  # tune/learning_rate.py
    unread: ClassVar[Mapping[str, Any]] = {**LoRA.unread, "init_lora_weights": "pissa", "use_dora": False}

    def part_for(self, one: LinearMap) -> "Principal":
        """See Targeted."""
        return Principal(self.rank_of(one), self.scale_of(one), self.dropout, self.lr_ratio)

    @classmethod
    def part_of(cls, config: Mapping[str, Any], module: str, stored: Mapping[str, np.ndarray]) -> LowRank:
        """See adapters/base.py. PEFT takes the same start out of the weights when it loads the file."""
        plain = LoRA.part_of(config, module, stored)
        return Principal(plain.rank, plain.scale)


@dataclass(frozen=True)
class Principal(Residual):
    """U sqrt(S / scale) and sqrt(S / scale) V^T of the largest singular values (Meng et al. 2024, eq. 2 and 3)."""

    def factors(self, kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        left, sizes, right = np.linalg.svd(kernel.astype(np.float32), full_matrices=False)
        roots = np.sqrt(sizes[: self.rank] / np.float32(self.scale))
        return left[:, : self.rank] * roots, roots[:, None] * right[: self.rank]
