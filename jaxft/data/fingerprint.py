"""Fingerprints of encoded examples: whether a resumed run sees the same examples as before, and which differ."""

import hashlib
from typing import TypedDict

import numpy as np

from jaxft.data.encoded import Encoded

FORMER_KEYS = {"sub_texts": "parts"}  # keys of examples whose names in fingerprints must not change
BLOCKS = 1000  # the most blocks of a fingerprint


class Fingerprint(TypedDict):
    """JSON values that origin.json holds."""

    rows: int  # of the source
    examples: int
    size: int  # examples per block
    blocks: list[str]  # a digest of each block


def fingerprint(encoded: Encoded, size: int | None = None) -> Fingerprint:
    """The fingerprint with blocks of `size` examples; None: a size for at most BLOCKS blocks.

    It depends on keys, dtypes and values only. Speed: 1.3 GB/s on one core, 0.27 s for 90 million tokens.
    """
    size = size or -(-len(encoded) // BLOCKS)
    starts = range(0, len(encoded), size)
    blocks = [_digest(encoded, start, min(start + size, len(encoded))) for start in starts]
    return {"rows": encoded.report.rows, "examples": len(encoded), "size": size, "blocks": blocks}


def difference(before: Fingerprint, encoded: Encoded) -> str | None:
    """How the examples differ from those of a fingerprint, as text; None if they are the same."""
    size = before["size"]
    now = fingerprint(encoded, size)
    if now["blocks"] == before["blocks"]:
        return None
    count = f"{now['rows']:,} rows, {before['rows']:,} before" if now["rows"] != before["rows"] else "as many rows"
    pairs = list(zip(now["blocks"], before["blocks"], strict=False))
    first = next((number for number, (a, b) in enumerate(pairs) if a != b), len(pairs))
    if first * size >= len(encoded):
        return f"{count}; the common ones are the same"
    rows = 1 + encoded.source[[first * size, min((first + 1) * size, len(encoded)) - 1]]
    where = f"row {rows[0]:,}" if rows[0] == rows[1] else f"one of the rows {rows[0]:,} to {rows[1]:,}"
    return f"{count}; the first that differs is {where}"


def _digest(encoded: Encoded, start: int, stop: int) -> str:
    found = hashlib.blake2b(digest_size=8)
    for former, key in sorted((FORMER_KEYS.get(key, key), key) for key in encoded.flat):
        values, offsets = encoded.flat[key], encoded.offsets[key][start : stop + 1]
        found.update(f"{former} {values.dtype.str} {values.shape[1:]}".encode())
        found.update(np.diff(offsets).astype("<i8").data)
        found.update(np.ascontiguousarray(values[offsets[0] : offsets[-1]]).data)
    return found.hexdigest()
