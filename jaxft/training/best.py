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
    """The ranking that `cfg.save.best` asks for. Raises UserError if the task has no such metric."""
    if cfg.save.best is None:
        return Best()
    return _declared("config.save", "best", cfg.save.best, cfg.save.mode, task)


def stopping_ranking(cfg: Config, task: Task) -> Best:
    """The direction of the metric of `cfg.early_stopping`. Raises UserError if the task has no such metric."""
    rule = cfg.early_stopping
    if rule is None:
        return Best()
    return _declared("config.early_stopping", "metric", rule.metric, rule.mode, task)


def _declared(where: str, field: str, metric: str, mode: str | None, task: Task) -> Best:
    """`mode` overrides the direction that the task declares, with a warning if they differ.

    Raises UserError if the task, with its labels, has no such metric.
    """
    split, _, name = metric.partition("/")  # a metric's name may hold slashes, an evaluation set's may not
    known: dict[str, Metric] = task.metrics()
    asked = f"{where}.{field}"
    if name not in known:
        longer = [f"{split}/{one}" for one in known if one.startswith(name)]
        near = suggest(metric, longer[:1] or [f"{split}/{one}" for one in known])
        raise UserError(
            f"{asked} is {truncated_repr(metric)}, but {type(task).__name__} gives no {name!r} with these "
            f"labels.{near} Metrics of {split}: {', '.join(known)}"
        )
    declared = known[name]
    direction = mode or declared.better
    if direction is None:
        raise UserError(
            f"{asked} is {truncated_repr(metric)}, a number that is neither better large nor small: set "
            f"{where}.mode to max or min, or choose another metric"
        )
    if declared.needs:
        log.warning("%s: %s is there only if %s has %s", asked, metric, split, declared.needs)
    if mode not in (None, declared.better):
        usual = {"max": "larger is better", "min": "smaller is better", None: "neither is better"}[declared.better]
        log.warning("%s.mode is %s: the best is the %simum of %s, of which %s", where, mode, mode, metric, usual)
    return Best(metric, direction)
