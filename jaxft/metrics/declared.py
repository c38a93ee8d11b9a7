"""Declarations of metrics: which values are better, and what an evaluation set needs for them."""

from typing import NamedTuple


class Metric(NamedTuple):
    """A task declares one for each metric that its evaluation gives."""

    better: str | None  # "max" or "min": the largest or the smallest value is the best; None: neither, as for a count
    needs: str = ""  # what a set must have, if the metric is not defined for every set


def higher(*names: str, needs: str = "") -> dict[str, Metric]:
    """Declarations of metrics whose larger values are better."""
    return dict.fromkeys(names, Metric("max", needs))


def lower(*names: str, needs: str = "") -> dict[str, Metric]:
    """Declarations of metrics whose smaller values are better, such as losses and errors."""
    return dict.fromkeys(names, Metric("min", needs))


def neither(*names: str, needs: str = "") -> dict[str, Metric]:
    """Declarations of numbers by which no model is better, such as counts."""
    return dict.fromkeys(names, Metric(None, needs))
