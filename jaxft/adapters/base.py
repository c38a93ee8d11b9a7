"""The interfaces of adapters on linear maps, and of the methods that put them there."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, ClassVar, NamedTuple, Self, cast

import numpy as np

from jaxft.models.layers.basic import Adapter

Tensors = dict[str, np.ndarray]
Join = Callable[[Sequence[np.ndarray]], np.ndarray]  # arrays (..., outputs of a map) -> (..., outputs of the module)
Pieces = Callable[[np.ndarray], list[np.ndarray]]  # the inverse of Join


class AdapterPart:
    """The description of an adapter: a frozen dataclass, equal for equal adapters."""

    starts_from_kernel: ClassVar[bool] = False  # whether `start` gives any values

    @property
    def scales_bias(self) -> bool:
        """Whether the adapter changes the bias of its linear map."""
        return False

    def build(self, inputs: int, outputs: int, axes: tuple[str | None, str | None]) -> Adapter:
        """The abstract adapter of a linear map; `axes` are the logical names of its kernel's axes."""
        raise NotImplementedError

    def start(self, kernel: np.ndarray) -> Tensors:
        """Initial values of the parameters that depend on the kernel (inputs, outputs), float32."""
        return {}

    def suffixes(self) -> Mapping[str, str]:
        """Parameter -> what follows the module's name in PEFT's files."""
        raise NotImplementedError

    def stored(self, values: Mapping[str, np.ndarray]) -> Tensors:
        """PEFT's tensors of the parameters, by what follows the module's name; PEFT's matrices are transposed."""
        return {suffix: values[name].T for name, suffix in self.suffixes().items()}

    def values(self, stored: Mapping[str, np.ndarray]) -> Tensors:
        """The inverse of `stored`. Raises KeyError for a tensor that is missing."""
        return {name: stored[suffix].T for name, suffix in self.suffixes().items()}

    def joined(self, tensors: Sequence[Tensors], join: Join) -> "StoredModule | None":
        """The adapter of a module that is several linear maps in one matrix, from the PEFT tensors of each.

        None: PEFT's adapter of the module cannot compute the same.
        """
        return StoredModule(self, tensors[0]) if len(tensors) == 1 else None

    def parted(self, stored: "StoredModule", pieces: Pieces, count: int) -> list[Tensors] | None:
        """The inverse of `joined`: PEFT's tensors for each of `count` linear maps.

        None: the stored adapter has other settings, or no such form.
        """
        return [stored.tensors] if count == 1 and stored.part == self.untrained() else None

    def described(self) -> str:
        """The settings, as words for a message."""
        return ", ".join(f"{one.name} {getattr(self, one.name)}" for one in fields(cast(Any, self)))

    def untrained(self) -> Self:
        """The part without the settings that matter in training alone."""
        return self


class StoredModule(NamedTuple):
    """The adapter of one module of a checkpoint, as PEFT stores it."""

    part: AdapterPart
    tensors: Tensors  # by what follows the module's name


class PeftMethod:
    """A tuning method whose result PEFT loads."""

    __slots__ = ()
    peft_type: ClassVar[str]
    # PEFT's settings that change what an adapter computes, and that jaxft does not have: the values, or the tuples of
    # them, with which they do not.
    unread: ClassVar[Mapping[str, Any]] = {}
    reads_transposed: ClassVar[bool] = True  # whether PEFT has it for matrices that are stored as (inputs, outputs)
    own_norms: ClassVar[bool] = False  # whether the parameters of norms are what PEFT's file holds

    def settings(self, found: Mapping[str, StoredModule], modules: Sequence[str]) -> dict[str, Any]:
        """The method's own settings in adapter_config.json; `modules` are all of the checkpoint."""
        raise NotImplementedError

    @classmethod
    def part_of(cls, config: Mapping[str, Any], module: str, stored: Mapping[str, np.ndarray]) -> AdapterPart:
        """The adapter of a module that is in PEFT's files; `config` is adapter_config.json."""
        raise NotImplementedError
