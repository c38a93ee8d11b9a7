"""What several runs of one process share: opened rows, encoded examples, compiled programs."""

import json
from collections.abc import Callable, Hashable
from typing import Any, TypeVar

from jaxft.config.component import NOT_JSON, to_json, walk

T = TypeVar("T")


class Shared:
    """Values by what they are made of. A run on its own has one to itself; the runs of a sweep have one together.

    The values are not changed after they are made.
    """

    def __init__(self) -> None:
        self._made: dict[Hashable, Any] = {}

    def get(self, key: Hashable | None, make: Callable[[], T]) -> T:
        """The value of `key`, made if there is none yet. None: the value is not shared."""
        if key is None:
            return make()
        if key not in self._made:
            self._made[key] = make()
        return self._made[key]


def identity(component: Any) -> str | None:
    """A text that is equal for equal components; None for one that holds values which are not written, such as rows in
    memory."""
    if any(field.metadata == NOT_JSON for _, field, _ in walk(component)):
        return None
    return json.dumps(to_json(component), sort_keys=True)
