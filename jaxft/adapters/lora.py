"""LoRA (Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models"), with rsLoRA's scale (Kalajdzievski
2023)."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal, Self

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.adapters.base import AdapterPart, Join, Pieces, StoredModule, Tensors
from jaxft.adapters.targeted import Ranked, Targeted, alpha_settings, rank_settings
from jaxft.adapters.targets import pattern_value
from jaxft.config.component import config
from jaxft.config.ranges import Positive, ProperFraction
from jaxft.models.layers.basic import Adapter, Linear, param
from jaxft.models.layers.dropout import dropout
from jaxft.models.layers.precision import upcast
from jaxft.tune.base import LinearMap, Tunable


@config
class LoRA(Ranked):
    """A low-rank update of linear maps trains, with the head of a task; the rest is frozen.

    Targets are named as in the checkpoint, with PEFT's rules: ends of module names ("q_proj", "attention.self.query"),
    or a string that is a regular expression of a whole name. Heads of language models are frozen; other heads train
    whole. A good learning rate is about ten times that of full tuning: 1e-4 to 4e-3.
    """

    dropout: ProperFraction = 0.0  # on the input of the update
    rslora: bool = False  # multiply by alpha / sqrt(rank), which suits large ranks
    bias: Literal["none", "all", "lora_only"] = "none"  # biases that train; lora_only: those of the targets
    lr_ratio: Positive = 1.0  # learning rate of B / that of A; LoRA+ (Hayou et al. 2024) has 16

    lr_scale: ClassVar[float] = 8.0  # tune/learning_rate.py
    peft_type: ClassVar[str] = "LORA"
    unread: ClassVar[Mapping[str, Any]] = {
        "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva"),  # others change the base when PEFT loads
        "lora_bias": False,
        "target_parameters": None,
        "trainable_token_indices": None,
        "layer_replication": None,
        "megatron_config": None,
        "alora_invocation_tokens": None,
        "use_qalora": False,
        "use_bdlora": None,
        "velora_config": None,
        "monteclora_config": None,
        "arrow_config": None,
        "kasa_config": None,
    }

    def select(self, model: Tunable) -> set[str]:
        """See tune/base.py."""
        saved = Targeted.select(self, model)
        if self.bias == "all":
            saved |= {name for name, role in model.roles.items() if role == "bias"}
        if self.bias == "lora_only":
            saved |= {f"{name}.bias" for name in self.adapters(model)} & model.roles.keys()
        return saved

    def scale_of(self, one: LinearMap) -> float:
        """The factor of a map's update."""
        return Ranked.scale_of(self, one) * (math.sqrt(self.rank_of(one)) if self.rslora else 1.0)

    def part_for(self, one: LinearMap) -> "LowRank":
        """See Targeted."""
        return LowRank(self.rank_of(one), self.scale_of(one), self.dropout, self.lr_ratio)

    def settings(self, found: Mapping[str, StoredModule], modules: Sequence[str]) -> dict[str, Any]:
        """See adapters/base.py."""
        parts = {name: one.part for name, one in found.items() if isinstance(one.part, LowRank)}
        alphas = {name: part.scale * _divisor(part.rank, self.rslora) for name, part in parts.items()}
        return {
            **Targeted.settings(self, found, modules),
            **rank_settings({name: part.rank for name, part in parts.items()}),
            **alpha_settings(alphas, "lora_alpha"),
            "lora_dropout": self.dropout,
            "use_rslora": self.rslora,
            "bias": self.bias,
        }

    @classmethod
    def part_of(cls, config: Mapping[str, Any], module: str, stored: Mapping[str, np.ndarray]) -> "LowRank":
        """See adapters/base.py."""
        rank = len(stored["lora_A.weight"])
        alpha = pattern_value(config.get("alpha_pattern") or {}, module, config.get("lora_alpha", 8))
        return LowRank(rank, alpha / _divisor(rank, config.get("use_rslora", False)))


@dataclass(frozen=True)
class LowRank(AdapterPart):
    """x -> x W + b + scale * dropout(x) A B (Hu et al. 2021, eq. 3)."""

    rank: int
    scale: float
    dropout: float = 0.0
    lr_ratio: float = 1.0

    def build(self, inputs: int, outputs: int, axes: tuple[str | None, str | None]) -> "LowRankLayer":
        return LowRankLayer(self, inputs, outputs, axes)

    def suffixes(self) -> Mapping[str, str]:
        return {"a": "lora_A.weight", "b": "lora_B.weight"}

    def joined(self, tensors: Sequence[Tensors], join: Join) -> StoredModule:
        """Of several maps, one whose rank is the sum of theirs."""
        a = np.concatenate([each["lora_A.weight"] for each in tensors])
        b = join_blocks([each["lora_B.weight"] for each in tensors], join)
        return StoredModule(self.with_rank(len(a)), {"lora_A.weight": a, "lora_B.weight": b})

    def parted(self, stored: StoredModule, pieces: Pieces, count: int) -> list[Tensors] | None:
        """All maps have A, or if the rank is the sum of theirs, each its own rows."""
        if not isinstance(stored.part, LowRank) or not math.isclose(stored.part.scale, self.scale, rel_tol=1e-6):
            return None
        a, columns = stored.tensors["lora_A.weight"], pieces(stored.tensors["lora_B.weight"].T)
        if len(a) == self.rank:
            return [{"lora_A.weight": a, "lora_B.weight": each.T} for each in columns]
        own = [(each, slice(n * self.rank, (n + 1) * self.rank)) for n, each in enumerate(columns)]
        if len(a) != count * self.rank or any(np.delete(each, rows, 0).any() for each, rows in own):
            return None
        return [{"lora_A.weight": a[rows], "lora_B.weight": each[rows].T} for each, rows in own]

    def described(self) -> str:
        return f"rank {self.rank}, alpha {self.scale * self.rank:g}, or with rslora {self.scale * self.rank**0.5:g}"

    def with_rank(self, rank: int) -> Self:
        """The same update, with a rank that is higher by zeros."""
        return replace(self, rank=rank)


class LowRankLayer(Adapter):
    """`a` (inputs, rank) and `b` (rank, outputs), which is 0 at first."""

    def __init__(self, part: LowRank, inputs: int, outputs: int, axes: tuple[str | None, str | None]):
        self.part = part
        self.a = param((inputs, part.rank), (axes[0], None), "kernel", "kaiming_uniform", origin="adapter")
        shape, ratio = (part.rank, outputs), part.lr_ratio
        self.b = param(shape, (None, axes[1]), "kernel", "zeros", origin="adapter", lr_factor=ratio)

    def __call__(self, x: jax.Array, linear: Linear, key: jax.Array | None) -> jax.Array:
        return linear.plain(x) + self.update(dropout(x, self.part.dropout, key))

    def update(self, x: jax.Array) -> jax.Array:
        """scale * x A B."""
        low = x @ self.a[...].astype(x.dtype)
        return low @ self.b[...].astype(x.dtype) * jnp.asarray(self.part.scale, x.dtype)

    def product(self) -> jax.Array:
        """scale * A B, float32 (inputs, outputs)."""
        return self.part.scale * jnp.matmul(upcast(self.a[...]), upcast(self.b[...]), precision="highest")

    def merged(self, kernel: jax.Array, bias: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
        return upcast(kernel) + self.product(), bias


def join_blocks(matrices: Sequence[np.ndarray], join: Join) -> np.ndarray:
    """The matrix (outputs of the module, sum of ranks) of matrices (outputs of a map, rank): each map reads its own
    columns."""
    rows = []
    for number, matrix in enumerate(matrices):
        blocks = [np.zeros((matrix.shape[1], len(other)), matrix.dtype) for other in matrices]
        blocks[number] = matrix.T
        rows.append(join(blocks))
    return np.concatenate(rows).T


def _divisor(rank: int, rslora: bool) -> float:
    return math.sqrt(rank) if rslora else rank
