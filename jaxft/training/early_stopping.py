"""Early stopping: a run ends when a metric no longer improves (Prechelt, 1998, "Early Stopping - But When?").

Not flax.training.early_stopping, which takes NaN as the best value if it comes first, and only minimises.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

from jaxft.config.run import EarlyStopping
from jaxft.training.best import Best


@dataclass
class Patience:
    """How often in a row a metric did not improve. It is part of every checkpoint."""

    rule: EarlyStopping | None
    ranking: Best
    best: float | None = None
    waited: int = 0  # evaluations since the best one

    def observe(self, metrics: dict[str, float]) -> str | None:
        """Counts an evaluation with these metrics. Returns the reason to end the run, or None to go on. NaN does not
        count as an improvement."""
        if self.rule is None:
            return None
        value = metrics.get(self.rule.metric.partition("/")[2], math.nan)
        if self._improves(value):
            self.best, self.waited = value, 0
        else:
            self.waited += 1
        if self.waited < self.rule.patience:
            return None
        return f"{self.rule.metric} did not improve in {self.waited} evaluations (best: {self.best})"

    def to_json(self) -> dict[str, Any]:
        """What a checkpoint records."""
        return {name: value for name, value in asdict(self).items() if name in ("best", "waited")}

    def restore(self, saved: dict[str, Any]) -> None:
        """Continues with what `to_json` gave."""
        self.best, self.waited = saved["best"], saved["waited"]

    def _improves(self, value: float) -> bool:
        if self.rule is None or not math.isfinite(value):
            return False
        sign = -1 if self.ranking.mode == "min" else 1
        return self.best is None or sign * (value - self.best) > self.rule.min_delta
