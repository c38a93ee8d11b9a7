"""Partial fine-tuning: some parameters train, the others are frozen."""

import re
from typing import ClassVar

from jaxft import paths
from jaxft.config.component import config
from jaxft.config.ranges import Count
from jaxft.problems import raise_problems
from jaxft.tune.base import Tunable


@config
class Partial:
    """The parameters that `train` matches train; with `last_layers` also the last N layers, the final norm and the
    head; with neither, all. Parameters that `freeze` matches never train.

    Head only: train=("head",). Frozen embeddings: freeze=("embed",), for an encoder-decoder ("embed", "encoder.embed").
    The last layers of an encoder-decoder are those of its decoder. Patterns: paths.py.
    """

    train: tuple[str, ...] = ()  # patterns of parameters that train
    freeze: tuple[str, ...] = ()  # patterns of parameters that never train
    last_layers: Count | None = None  # the last layers that train, with the head

    lr_scale: ClassVar[float] = 1.0  # tune/learning_rate.py

    def select(self, model: Tunable) -> set[str]:
        """See tune/base.py."""
        names, layers = list(model.roles), model.layers
        problems = paths.unmatched_problems(self.train, names, "tune.train")
        problems += paths.unmatched_problems(self.freeze, names, "tune.freeze")
        if self.last_layers is not None and self.last_layers > layers:
            problems.append(f"tune.last_layers is {self.last_layers}, but the model has {layers} layers")
        raise_problems(problems)
        chosen = paths.select(self.train, names)
        if self.last_layers is not None:
            chosen |= {name for name in names if _layer(name) >= layers - self.last_layers}
        elif not self.train:
            chosen = set(names)
        return chosen - paths.select(self.freeze, names)

    def adapters(self, model: Tunable) -> dict[str, object]:
        """None."""
        return {}


def _layer(name: str) -> float:
    """The layer of a parameter; -1 for embeddings and the encoder, infinity for the final norm and the head."""
    number = re.match(r"layers\.(\d+)\.", name)
    if number:
        return int(number[1])
    return -1 if name.startswith(("embed.", "rel_bias.", "encoder.")) else float("inf")
