"""What a program is told of a run while it trains."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxft.problems import UserError, truncated_repr
from jaxft.training.step import StepMetrics


class Callback:
    """A base class whose methods do nothing. Each may return True: the run ends after this step as after its last one,
    evaluated, saved and exported.

    With several processes every process calls its own callbacks, with equal values; they must decide alike.
    """

    def on_step(self, step: int, metrics: StepMetrics) -> bool | None:
        """After each step, from 1. The metrics are still computed on the devices: reading one waits for the step, and
        training is slower if every step does so."""

    def on_log(self, step: int, numbers: Mapping[str, float]) -> bool | None:
        """After each log point: means over the steps since the last one, as in metrics.jsonl."""

    def on_evaluation(self, step: int, name: str, metrics: Mapping[str, float]) -> bool | None:
        """After each evaluation of the set `name`; the metrics are those of metrics.jsonl."""


def asked_to_end(callback: Callback, answer: Any) -> bool:
    """Whether what a method of the callback returned is True, of Python, NumPy or JAX. Raises UserError for what is no
    truth value."""
    if answer is None:
        return False
    if np.ndim(answer) != 0 or np.asarray(answer).dtype != bool:
        raise UserError(
            f"a method of {type(callback).__name__} returned {truncated_repr(answer)}, expected True (the run ends), "
            "False or None"
        )
    return bool(answer)
