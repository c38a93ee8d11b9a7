"""SQuAD files, which nest articles, paragraphs and questions, as rows with one question each."""

import logging
from collections.abc import Iterator
from typing import Any

from jaxft.data.example import Row
from jaxft.problems import UserError, truncated_repr

log = logging.getLogger("jaxft")


def is_nested(articles: list[Any]) -> bool:
    """Whether the `data` of a JSON file has the form of SQuAD."""
    return bool(articles) and isinstance(articles[0], dict) and isinstance(articles[0].get("paragraphs"), list)


def questions(articles: list[Any], path: str) -> Iterator[Row]:
    """Rows with id, title, context, question and answers {"text": [...], "answer_start": [...]}.

    A question with `is_impossible` has no answers; its plausible answers are ignored. `answers` is None if the file has
    none. Ids that are numbers become texts; a question without an id gets its number from 0. Raises UserError with the
    place of a malformed item.
    """
    count = missing = 0
    for a, article in enumerate(articles, 1):
        for p, paragraph in enumerate(_list(article, "paragraphs", f"{path}, article {a}"), 1):
            where = f"{path}, article {a}, paragraph {p}"
            for q, asked in enumerate(_list(paragraph, "qas", where), 1):
                place = f"{where}, question {q}"
                missing += _id(asked, "", place) == ""
                yield {
                    "id": _id(asked, str(count), place),
                    "title": str(article.get("title", "")),
                    "context": _text(paragraph, "context", where),
                    "question": _text(asked, "question", place),
                    "answers": _answers(asked, place),
                }
                count += 1
    if missing:
        log.info("%s: %s questions have no id and get their number in the file, from 0", path, f"{missing:,}")


def _id(asked: Any, default: str, where: str) -> str:
    """The id of a question as text; `default` if it has none."""
    given = asked.get("id") if isinstance(asked, dict) else None
    if isinstance(given, list | dict | bool):
        raise UserError(f"{where}: expected a text or a number for its id, found {truncated_repr(given)}")
    return default if given is None or not str(given).strip() else str(given)


def _answers(asked: Row, where: str) -> Row | None:
    if asked.get("is_impossible"):
        return {"text": [], "answer_start": []}
    if asked.get("answers") is None:
        return None
    answers = _list(asked, "answers", where)
    for answer in answers:
        if not isinstance(answer, dict) or type(answer.get("answer_start")) is not int:
            raise UserError(f"{where}: expected answers with text and answer_start, found {truncated_repr(answer)}")
    texts = [_text(answer, "text", where) for answer in answers]
    return {"text": texts, "answer_start": [answer["answer_start"] for answer in answers]}


def _list(value: Any, name: str, where: str) -> list[Any]:
    if not isinstance(value, dict) or not isinstance(value.get(name), list):
        raise UserError(f"{where}: expected an object with a list {name!r}, found {truncated_repr(value)}")
    return value[name]


def _text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, dict) or not isinstance(value.get(name), str):
        raise UserError(f"{where}: expected an object with a text {name!r}, found {truncated_repr(value)}")
    return value[name]
