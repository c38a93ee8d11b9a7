"""The source rows that a task is given."""

from collections.abc import Iterator
from typing import Protocol, overload

from jaxft.data.example import Row


class SourceRows(Protocol):
    """What tasks use of jaxft.data's `Rows`: rows by number, which are read when they are asked for."""

    name: str  # for messages
    classes: dict[str, list[str]]  # class names by number, of the columns that hold class numbers

    def __len__(self) -> int: ...

    @overload
    def __getitem__(self, key: int) -> Row: ...

    @overload
    def __getitem__(self, key: slice) -> list[Row]: ...

    def __iter__(self) -> Iterator[Row]: ...

    def named(self) -> "SourceRows":
        """The same rows with class names in place of class numbers."""
