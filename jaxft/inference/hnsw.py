"""An approximate index of vectors: the graph of Malkov and Yashunin 2018 (HNSW), built and searched by faiss."""

import importlib
import importlib.util
from pathlib import Path
from typing import Any

import numpy as np

from jaxft.host.output_file import atomic_write
from jaxft.problems import UserError, clipped, raise_problems

NEIGHBOURS, BUILD_WIDTH, SEARCH_WIDTH = 32, 200, 128  # M, efConstruction and the least efSearch of the paper
GRAPH = "hnsw.faiss"
NEEDED = "the method hnsw needs faiss: pip install 'jaxft[search]' (or pip install faiss-cpu)"
METRICS = {"cosine": "METRIC_INNER_PRODUCT", "dot": "METRIC_INNER_PRODUCT", "euclidean": "METRIC_L2"}


def problems(similarity: str) -> list[str]:
    """Why there can be no such index."""
    found = [] if importlib.util.find_spec("faiss") else [NEEDED]
    if similarity not in METRICS:
        found.append(f"the method hnsw has no {similarity} similarity, only {', '.join(METRICS)}: use exact")
    return found


class Hnsw:
    """A graph of vectors, searched by walking towards the query: fast for millions of rows, and it may miss some."""

    def __init__(self, graph: Any, similarity: str):
        self.graph, self.similarity = graph, similarity  # `graph` is faiss's object

    @classmethod
    def of(cls, vectors: np.ndarray, similarity: str, store: Path | None) -> "Hnsw":
        """The graph of vectors, float32 (rows, width): read from the folder `store`, else built and written there.

        Raises UserError without faiss, and for a file that is not of these vectors.
        """
        raise_problems(problems(similarity))
        faiss = importlib.import_module("faiss")
        file = None if store is None else store / GRAPH
        if file is not None and file.exists():
            return cls(_read(faiss, file, vectors), similarity)
        graph = faiss.IndexHNSWFlat(vectors.shape[1], NEIGHBOURS, getattr(faiss, METRICS[similarity]))
        graph.hnsw.efConstruction = BUILD_WIDTH
        graph.add(_prepared(vectors, similarity))
        if file is not None:
            with atomic_write(str(file)) as partial:
                faiss.write_index(graph, partial)
        return cls(graph, similarity)

    def nearest(self, queries: np.ndarray, top: int) -> tuple[np.ndarray, np.ndarray]:
        """(scores, rows) as `Exact.nearest` gives them; row -1 where fewer rows were reached."""
        self.graph.hnsw.efSearch = max(SEARCH_WIDTH, 2 * top)
        found, rows = self.graph.search(_prepared(queries, self.similarity), min(top, self.graph.ntotal))
        scores = -np.sqrt(np.maximum(found, 0)) if self.similarity == "euclidean" else found  # faiss's are squares
        order = np.lexsort((rows, -scores), axis=1)
        return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


def _read(faiss: Any, file: Path, vectors: np.ndarray) -> Any:
    try:
        graph = faiss.read_index(str(file))
    except RuntimeError as error:
        raise UserError(f"{file} cannot be read: remove it ({clipped(str(error))})") from None
    if (graph.ntotal, graph.d) != vectors.shape:
        raise UserError(f"{file} is of {graph.ntotal} vectors of {graph.d} numbers, not of {vectors.shape}: remove it")
    return graph


def _prepared(vectors: np.ndarray, similarity: str) -> np.ndarray:
    if similarity == "cosine":
        vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=-1, keepdims=True), 1e-12)
    return np.ascontiguousarray(vectors, np.float32)
