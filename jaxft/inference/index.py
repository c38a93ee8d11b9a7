"""An index of rows by the embeddings of their texts, and the search in it: `model.index` and `model.search`."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from jaxft.data.example import Row
from jaxft.inference.hnsw import Hnsw
from jaxft.inference.index_store import kept
from jaxft.inference.inputs import inputs_of
from jaxft.inference.nearest import SIMILARITIES, Exact
from jaxft.problems import SHOWN, UserError, raise_problems, suggest, truncated_repr, with_row_numbers

if TYPE_CHECKING:
    from jaxft.inference.model import LoadedModel

log = logging.getLogger("jaxft")

CHUNK = 1024  # rows whose embeddings are Python lists at the same time
METHODS: dict[str, type[Exact] | type[Hnsw]] = {"exact": Exact, "hnsw": Hnsw}


class Searcher(Protocol):
    """Vectors that can be searched."""

    def nearest(self, queries: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
        """(scores, rows), both (queries, top or all rows), the best first; row -1 for none."""


@dataclass(frozen=True)
class Index:
    """Rows, and what finds them."""

    rows: Sequence[Any]  # texts, tuples of texts, or dicts, as `model.predict` reads them
    vectors: np.ndarray  # float32 (rows, width)
    searcher: Searcher

    def hits(self, queries: np.ndarray, top: int) -> list[list[Row]]:
        """For each query, float32 (queries, width), its hits, see `model.search`."""
        scores, rows = self.searcher.nearest(queries, top)
        pairs = zip(scores.tolist(), rows.tolist(), strict=True)
        return [list(self._named(*pair)) for pair in pairs]

    def _named(self, scores: list[float], rows: list[int]) -> Iterator[Row]:
        for score, number in zip(scores, rows, strict=True):
            if number >= 0:
                fields = fields_of(self.rows[number])
                yield fields | {free(name, fields): value for name, value in (("row", number), ("score", score))}


def fields_of(row: Any) -> Row:
    """The fields of a row; those of a text are `text`, those of several texts that are read together `texts`."""
    if isinstance(row, Mapping):
        return dict(row)
    return {"text": row} if isinstance(row, str) else {"texts": list(row)}


def free(name: str, fields: Row) -> str:
    """The name of a field of a hit, with found_ in front if the row has a field of this name."""
    while name in fields:
        name = f"found_{name}"
    return name


def index_of(
    model: "LoadedModel", rows: Any, method: str, store: str | Path | None, prompt_name: str | None, batch: int
) -> Index:
    """See `LoadedModel.index`."""
    raise_problems(_problems(model))
    if method not in METHODS:
        raise_problems(
            [f"method is {truncated_repr(method)}, expected {' or '.join(METHODS)}.{suggest(method, METHODS)}"]
        )
    several = isinstance(rows, Sequence) and not isinstance(rows, str | bytes | tuple)
    found: Sequence[Any] = rows if several else inputs_of(rows)
    raise_problems(["there are no rows to search: give one or more"] if not len(found) else [])
    settings = _settings(model)
    asked = _prompted(model, settings.document_prompt if prompt_name is None else prompt_name)
    folder = None if store is None else Path(store)
    if not settings.files:
        log.info(
            "%s has no modules of sentence-transformers: embeddings are means of hidden states", settings.directory
        )
    vectors = kept(folder, asked, found, lambda: embedded(asked, found, batch))
    return Index(found, vectors, METHODS[method].of(vectors, settings.similarity, folder))


def embedded(model: "LoadedModel", rows: Sequence[Any], batch: int) -> np.ndarray:
    """The embeddings, float32 (rows, width). Raises UserError with the numbers of rows without any."""
    found: list[np.ndarray] = []
    for start in range(0, len(rows), CHUNK):
        some = list(rows[start : start + CHUNK])
        try:
            answers = model.predict(some, batch)
        except UserError as error:
            raise with_row_numbers(error, some, start + 1, "rows", lambda one: model.predict(one, batch)) from None
        found.append(np.array([answer["embedding"] for answer in answers], np.float32))
    vectors = np.concatenate(found)
    bad = np.flatnonzero(~np.isfinite(vectors).all(1))
    raise_problems(
        f"row {number + 1} has an embedding that is not finite: the model diverged" for number in bad[:SHOWN]
    )
    return vectors


def search_in(
    model: "LoadedModel", queries: Any, index: Index, top: int, prompt_name: str | None, batch: int
) -> list[list[Row]]:
    """See `LoadedModel.search`."""
    valid = isinstance(top, int) and top >= 1
    raise_problems([] if valid else [f"top is {truncated_repr(top)}, expected a whole number, 1 or more"])
    settings = _settings(model)
    asked = _prompted(model, settings.query_prompt if prompt_name is None else prompt_name)
    texts = inputs_of(queries)
    if not texts:
        return []
    found = embedded(asked, texts, batch)
    if found.shape[1] != index.vectors.shape[1]:
        widths = f"{found.shape[1]} numbers, those of the index {index.vectors.shape[1]}"
        raise_problems([f"the model's embeddings have {widths}: use the model that made the index"])
    return index.hits(found, top)


def _settings(model: "LoadedModel") -> Any:
    if model.embedding is None:
        raise ValueError("the model has a head")
    return model.embedding


def _prompted(model: "LoadedModel", name: str) -> "LoadedModel":
    """The model with a prompt before its texts; the log says so."""
    if text := _settings(model).prompt(name):
        log.info("the prompt %r is put before the texts", text)
    return model if name == "" and not _settings(model).default_prompt else model.departing(prompt_name=name)


def _problems(model: "LoadedModel") -> list[str]:
    if model.embedding is None:
        directory = model.pretrained.directory
        return [
            f"a search compares embeddings, and this model has the head {model.arch.kind}: load it with "
            f"jaxft.load({str(directory)!r}, head='none')"
        ]
    known, similarity = list(SIMILARITIES), model.embedding.similarity
    wrong = [f"the similarity {truncated_repr(similarity)} is not supported, only {', '.join(known)}"]
    return model.unanswerable + (wrong if similarity not in known else [])
