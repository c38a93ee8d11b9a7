"""The interface of tuning methods."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol


class LinearMap(NamedTuple):
    """A linear map that may have an adapter."""

    name: str  # in jaxft, such as layers.2.attn.q
    module: str  # in the checkpoint; a fused module is that of several maps
    inputs: int
    outputs: int
    layer: int | None  # the number of its layer; None: it is in none
    place: str  # in its layer, such as attn.q; the name if it is in none


class Tunable(NamedTuple):
    """What a tuning method knows of a model."""

    roles: Mapping[str, str]  # parameter name -> role (models/params.py), but for those that are fixed
    layers: int  # of the decoder, if there is an encoder
    tensors: Mapping[str, str] = {}  # parameter name -> its tensor in the checkpoint
    maps: tuple[LinearMap, ...] = ()  # all linear maps but the head's, routers and experts
    trains_head: bool = True  # whether the head is the task's own, not a language model's


class Tuning(Protocol):
    """A `@config` class. A method that puts vectors before every text is a SoftPrompt (adapters/soft_prompt.py)."""

    def select(self, model: Tunable) -> set[str]:
        """The names of the model's own parameters that train."""
        ...

    def adapters(self, model: Tunable) -> Mapping[str, Any]:
        """The parts that are added, which train: name of a linear map -> AdapterPart (adapters/base.py)."""
        ...
