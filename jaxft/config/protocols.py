"""What an object must have to be a component of a configuration."""

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable


@runtime_checkable
class Checked(Protocol):
    """A config object that checks its own values."""

    def problems(self, *context: Any) -> list[str]:
        """What is wrong with it, each as one sentence with its fix."""


@runtime_checkable
class Source(Protocol):
    """A source of rows: config.data."""

    def open(self) -> Any:
        """The rows, as `as_rows` of jaxft/data/row_sequence.py takes them."""


@runtime_checkable
class TaskComponent(Protocol):
    """A task: config.task (jaxft/tasks/base.py)."""

    def encode(self, rows: list[dict[str, Any]], setting: Any) -> Any:
        """The examples of the rows."""


@runtime_checkable
class TuneComponent(Protocol):
    """A choice of the weights that train: config.tune (jaxft/tune, jaxft/adapters)."""

    def select(self, model: Any) -> set[str]:
        """The names of the model's parameters that train; `model` is a Tunable (jaxft/tune/base.py)."""

    def adapters(self, model: Any) -> Mapping[str, Any]:
        """The parts that are added, by the names of linear maps."""


@runtime_checkable
class QuantizationComponent(Protocol):
    """A format of a frozen base's linear maps: config.quantization (jaxft/quantization)."""

    def part(self) -> Any:
        """The format with these settings, a QuantizationPart (jaxft/quantization/base.py)."""


@runtime_checkable
class Factory(Protocol):
    """What makes an optimizer or a schedule: config.optim and config.schedule (jaxft/optim)."""

    def make(self, *arguments: Any) -> Any:
        """The Optax transformation, or the function of the step."""
