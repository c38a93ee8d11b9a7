"""Partial fine-tuning: some parameters train, the rest stays as it is."""

import re

from jaxft import paths
from jaxft.config.component import config
from jaxft.config.ranges import Count
from jaxft.problems import raise_problems


@config
class Partial:
    """What trains: the names that `train` matches; with `last_layers` also the last N layers, the final norm and the
    head; with neither, everything. What `freeze` matches does not train in any case.

    Head only: train=("head",). Embeddings frozen: freeze=("embed",), of an encoder-decoder ("embed", "encoder.embed"),
    whose last layers are the decoder's. Patterns: paths.py.
    """

    train: tuple[str, ...] = ()
    freeze: tuple[str, ...] = ()
    last_layers: Count | None = None

    def select(self, roles: dict[str, str], layers: int) -> set[str]:
        names = list(roles)
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


def _layer(name: str) -> float:
    """The layer a parameter belongs to: embeddings and an encoder come before all, the final norm and head after."""
    number = re.match(r"layers\.(\d+)\.", name)
    if number:
        return int(number[1])
    return -1 if name.startswith(("embed.", "distances.", "encoder.")) else float("inf")
