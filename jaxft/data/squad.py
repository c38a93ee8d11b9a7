"""The nested files in which SQuAD is published: articles of paragraphs of questions, as rows of one question each."""

import logging
from collections.abc import Iterator

from jaxft.problems import UserError, truncated_repr

log = logging.getLogger("jaxft")


def is_nested(articles: list) -> bool:
    """Whether a JSON file's `data` looks like SQuAD's."""
    return bool(articles) and isinstance(articles[0], dict) and isinstance(articles[0].get("paragraphs"), list)


def questions(articles: list, path: str) -> Iterator[dict]:
    """Rows with id, title, context, question and answers {"text": [...], "answer_start": [...]}.

    A question that `is_impossible` has no answers; what its file calls plausible is left out. `answers` is None where
    the file has none at all. An id that is a number becomes a text; a question without one gets its number from 0.
    Raises UserError that names the place of what is not as it should be.
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
        log.info("%s: %s questions have no id: it is their number in the file, from 0", path, f"{missing:,}")


def _id(asked, default: str, where: str) -> str:
    """A question's id as a text; `default` where it has none."""
    given = asked.get("id") if isinstance(asked, dict) else None
    if isinstance(given, list | dict | bool):
        raise UserError(f"{where}: expected a text or a number for its id, found {truncated_repr(given)}")
    return default if given is None or not str(given).strip() else str(given)


def _answers(asked: dict, where: str) -> dict | None:
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


def _list(value, name: str, where: str) -> list:
    if not isinstance(value, dict) or not isinstance(value.get(name), list):
        raise UserError(f"{where}: expected an object with a list {name!r}, found {truncated_repr(value)}")
    return value[name]


def _text(value, name: str, where: str) -> str:
    if not isinstance(value, dict) or not isinstance(value.get(name), str):
        raise UserError(f"{where}: expected an object with a text {name!r}, found {truncated_repr(value)}")
    return value[name]
