"""Fingerprints of encoded examples: whether a run that goes on sees those that it began with, and which differ."""

import hashlib

import numpy as np

from jaxft.data.encoded import Encoded

BLOCKS = 1000  # most blocks of a fingerprint; up to that many examples each have a block of their own


def fingerprint(encoded: Encoded, size: int | None = None) -> dict:
    """JSON values: `rows` of the source, `examples`, and a digest of each block of `size` examples.

    A pure function of keys, types and values, at 1.3 GB/s on one core: 0.27 s for 90 million tokens.
    """
    size = size or -(-len(encoded) // BLOCKS)
    starts = range(0, len(encoded), size)
    blocks = [_digest(encoded, start, min(start + size, len(encoded))) for start in starts]
    return {"rows": encoded.report["rows"], "examples": len(encoded), "size": size, "blocks": blocks}


def difference(before: dict, encoded: Encoded) -> str | None:
    """How the examples differ from those of a fingerprint, in words; None where they are the same."""
    size = before["size"]
    now = fingerprint(encoded, size)
    if now["blocks"] == before["blocks"]:
        return None
    count = f"{now['rows']:,} rows, {before['rows']:,} before" if now["rows"] != before["rows"] else "as many rows"
    pairs = list(zip(now["blocks"], before["blocks"], strict=False))
    first = next((number for number, (a, b) in enumerate(pairs) if a != b), len(pairs))
    if first * size >= len(encoded):
        return f"{count}; those that are there are the same"
    rows = 1 + encoded.source[[first * size, min((first + 1) * size, len(encoded)) - 1]]
    where = f"row {rows[0]:,}" if rows[0] == rows[1] else f"one of the rows {rows[0]:,} to {rows[1]:,}"
    return f"{count}; the first that differs is {where}"


def _digest(encoded: Encoded, start: int, stop: int) -> str:
    found = hashlib.blake2b(digest_size=8)
    for key in sorted(encoded.flat):
        values, offsets = encoded.flat[key], encoded.offsets[key][start : stop + 1]
        found.update(f"{key} {values.dtype.str} {values.shape[1:]}".encode())
        found.update(np.diff(offsets).astype("<i8"))
        found.update(np.ascontiguousarray(values[offsets[0] : offsets[-1]]))
    return found.hexdigest()
