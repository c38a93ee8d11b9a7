"""The interface of tuning methods."""

from typing import Protocol


class Tuning(Protocol):
    """A `@config` class."""

    def select(self, roles: dict[str, str], layers: int) -> set[str]:
        """The names of the parameters that train. `roles` has the role of each name (models/params.py), `layers` is the
        number of layers of the model (of the decoder, if there is an encoder)."""
