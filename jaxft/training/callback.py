"""What a program is told of a run while it trains."""

from collections.abc import Mapping

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
