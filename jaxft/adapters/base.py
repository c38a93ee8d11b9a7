"""The interface of adapters."""

from typing import Protocol

from jaxft.models.layers.basic import Adapter


class AdapterPart(Protocol):
    """The description of an adapter: hashable, equal for equal adapters."""

    def build(self, inputs: int, outputs: int, axes: tuple[str | None, str | None]) -> Adapter:
        """The abstract adapter of a linear map; `axes` are the logical names of its kernel's axes."""
        ...
