"""Which checkpoint is the best, by a metric of an evaluation set; the task declares the metric's direction."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass

from jaxft.config import Config
from jaxft.metrics.declared import Metric
from jaxft.problems import UserError, suggest, truncated_repr
from jaxft.tasks.base import Task

log = logging.getLogger("jaxft")


@dataclass(frozen=True)
class Best:
    """How checkpoints are ranked. Without a metric, none is better than another."""

    metric: str | None = None  # EVAL/METRIC
    mode: str = "max"  # or "min"

    def step(self, scores: Mapping[int, float | None]) -> int | None:
        """The step with the best score, the earliest of equal ones. None if no score is finite."""
        found = {step: score for step, score in scores.items() if score is not None and math.isfinite(score)}
        if self.metric is None or not found:
            return None
        sign = -1 if self.mode == "min" else 1
        return max(sorted(found), key=lambda step: sign * found[step])


def ranking(cfg: Config, task: Task) -> Best:
    """The ranking that `cfg.save.best` asks for. `cfg.save.mode` overrides the direction that the task declares, with a
    warning if they differ.

    Raises UserError if the task, with its labels, has no such metric.
    """
    best, mode = cfg.save.best, cfg.save.mode
    if best is None:
        return Best()
    split, _, name = best.partition("/")  # a metric's name may hold slashes, an evaluation set's may not
    known: dict[str, Metric] = task.metrics()
    if name not in known:
        longer = [f"{split}/{metric}" for metric in known if metric.startswith(name)]
        near = suggest(best, longer[:1] or [f"{split}/{metric}" for metric in known])
        raise UserError(
            f"config.save.best is {truncated_repr(best)}, but {type(task).__name__} gives no {name!r} with these "
            f"labels.{near} Metrics of {split}: {', '.join(known)}"
        )
    declared = known[name]
    direction = mode or declared.better
    if direction is None:
        raise UserError(
            f"config.save.best is {truncated_repr(best)}, a number that is neither better large nor small: set "
            "config.save.mode to max or min, or choose another metric"
        )
    if declared.needs:
        log.warning("config.save.best: %s is there only if %s has %s", best, split, declared.needs)
    if mode not in (None, declared.better):
        usual = {"max": "larger is better", "min": "smaller is better", None: "neither is better"}[declared.better]
        log.warning("config.save.mode is %s: the best is the %simum of %s, of which %s", mode, mode, best, usual)
    return Best(best, direction)
