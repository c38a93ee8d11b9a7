"""The inputs of the model that a task makes of rows, to measure their lengths."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxft.data.example import Row
from jaxft.tasks.list_cells import list_of
from jaxft.tasks.template import column

TOGETHER = ("text", "pair", "question", "context", "words")  # roles whose texts are one input
ALONE = ("ContrastiveEmbedding", "Triplet", "Similarity")  # tasks of which each text is an input


def model_inputs(task: str, rows: list[Row], columns: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The texts of each input; `columns` are the columns or templates of the task by role."""
    names = [columns[role] for role in (*TOGETHER, *(["negative"] if task in ALONE else [])) if role in columns]
    texts: Sequence[tuple[str, ...]] = list(zip(*(_texts(rows, name) for name in names), strict=True))
    if task in ALONE:
        return [(text,) for some in texts for text in some]
    if "choices" not in columns:
        return list(texts)
    return [(*some, choice) for some, row in zip(texts, rows, strict=True) for choice in _choices(row, columns)]


def _texts(rows: list[Row], name: str) -> list[str]:
    """The texts of a column or a template; of a list, its words."""
    if "{" in name or not any(isinstance(row[name], list) for row in rows):
        return column(rows, name)
    return [" ".join(map(str, row[name] or [])) for row in rows]


def _choices(row: Row, columns: Mapping[str, Any]) -> list[str]:
    name = columns["choices"]
    if isinstance(name, str) or len(name) == 1:
        return [str(choice) for choice in list_of(row[name if isinstance(name, str) else name[0]]) or []]
    return [text for one in name for text in column([row], one)]
