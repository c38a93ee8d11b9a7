"""What a task declares of each metric that its evaluation gives: which values are better, and when there is one."""

from typing import NamedTuple


class Metric(NamedTuple):
    """`better` is "max" or "min": the largest or the smallest value is the best; None: neither, as of a count."""

    better: str | None
    needs: str = ""  # what an evaluation set must have for it, where that is not every set


def higher(*names: str, needs: str = "") -> dict[str, Metric]:
    """Declarations of metrics whose larger values are better."""
    return dict.fromkeys(names, Metric("max", needs))


def lower(*names: str, needs: str = "") -> dict[str, Metric]:
    """Declarations of metrics whose smaller values are better, such as losses and errors."""
    return dict.fromkeys(names, Metric("min", needs))


def neither(*names: str, needs: str = "") -> dict[str, Metric]:
    """Declarations of numbers that rank nothing."""
    return dict.fromkeys(names, Metric(None, needs))
