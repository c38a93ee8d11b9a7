"""How the files of a source are read."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Reading:
    """The choices of `Data` (data/source.py) that concern the content of a file; None: found by looking at it."""

    quote: str = '"'
    delimiter: str | None = None
    encoding: str = "utf-8-sig"  # of this file
    named_encoding: str | None = None  # that the user named
    sheet: str | None = None
    offsets: str | None = None  # a key of UNITS (data/annotations/units.py)
