"""A folder that keeps the embeddings of an index, so that they are computed once.

embeddings.npy  float32 (rows, width)
index.json      {"version", "model", "rows"}: fingerprints; written last, so that a folder without it is incomplete
hnsw.faiss      the graph of the method hnsw (inference/hnsw.py), if it was asked for
"""

import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxft.host.output_file import atomic_write, check_output, replace_bytes
from jaxft.host.strict_json import dumps, parse
from jaxft.inference.hnsw import GRAPH
from jaxft.inference.inputs import texts_read
from jaxft.problems import UserError, raise_problems

if TYPE_CHECKING:
    from jaxft.inference.model import LoadedModel

log = logging.getLogger("jaxft")

VERSION = 1
CHUNK = 10_000  # rows whose texts are in memory at the same time


def kept(
    folder: Path | None, model: "LoadedModel", rows: Sequence[Any], compute: Callable[[], np.ndarray]
) -> np.ndarray:
    """The embeddings in the folder, else those of `compute()`, which are written there. None: no folder.

    Raises UserError for a folder that was written for another model or for other rows.
    """
    if folder is None:
        return compute()
    check_output(str(folder.absolute() / "index.json") if folder.is_dir() else str(folder.absolute()))
    own = {"version": VERSION, "model": model_fingerprint(model), "rows": rows_fingerprint(model, rows)}
    if (folder / "index.json").exists():
        _check(folder, own)
        log.info("%s: embeddings of %d rows were read", folder, len(rows))
        return _read(folder / "embeddings.npy", len(rows))
    vectors = compute()
    folder.mkdir(exist_ok=True)
    (folder / GRAPH).unlink(missing_ok=True)  # of embeddings that were removed
    with atomic_write(str(folder / "embeddings.npy")) as partial, open(partial, "wb") as file:
        np.save(file, vectors)
    replace_bytes(folder / "index.json", (json.dumps(own) + "\n").encode())
    log.info("%s: embeddings of %d rows were written", folder, len(rows))
    return vectors


def _check(folder: Path, own: dict[str, Any]) -> None:
    fix = f"remove {folder}, or name another folder"
    try:
        found = parse((folder / "index.json").read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{folder / 'index.json'} cannot be read ({error}): {fix}") from None
    if not isinstance(found, dict) or found.get("version") != VERSION:
        raise UserError(f"{folder / 'index.json'} was not written by this version of jaxft: {fix}")
    stale = [what for key, what in (("model", "another model"), ("rows", "other rows")) if found.get(key) != own[key]]
    raise_problems([f"{folder} holds the embeddings of {' and of '.join(stale)}: {fix}"] if stale else [])


def _read(file: Path, count: int) -> np.ndarray:
    try:
        vectors = np.load(file, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read ({error}): remove its folder") from None
    if vectors.ndim != 2 or len(vectors) != count or vectors.dtype != np.float32:
        raise UserError(
            f"{file} holds {vectors.dtype} {vectors.shape}, not float32 ({count}, width): remove its folder"
        )
    return vectors


def model_fingerprint(model: "LoadedModel") -> str:
    """A digest of all that decides an embedding: weights, architecture, tokenizer, modules, prompt, longest text."""
    found = hashlib.blake2b(digest_size=16)
    for path, array in sorted(model.params.items()):
        found.update(f"{path} {array.dtype} {array.shape}".encode())
        found.update(np.ascontiguousarray(array).view(np.uint8).data)
    embedding = model.embedding
    settings = [model.pretrained.raw, model.inference.to_json(), model.longest, str(model.model.dtype)]
    found.update(dumps(settings, sort_keys=True, default=str).encode())
    found.update(model.tokenizer.backend_tokenizer.to_str().encode())
    for name, content in sorted(embedding.contents().items()) if embedding else ():
        found.update(f"{name} {len(content)}".encode() + content)
    return found.hexdigest()


def rows_fingerprint(model: "LoadedModel", rows: Sequence[Any]) -> str:
    """A digest of the texts that the model reads of the rows; their other fields may change."""
    found = hashlib.blake2b(digest_size=16)
    for start in range(0, len(rows), CHUNK):
        for texts in texts_read(list(rows[start : start + CHUNK]), model.inference):
            found.update(dumps(texts, ensure_ascii=True).encode() + b"\n")
    return found.hexdigest()
