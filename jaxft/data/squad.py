"""The nested files in which SQuAD is published: articles of paragraphs of questions, as rows of one question each."""

from collections.abc import Iterator

from jaxft.problems import UserError, shown


def is_nested(articles: list) -> bool:
    """Whether a JSON file's `data` looks like SQuAD's."""
    return bool(articles) and isinstance(articles[0], dict) and isinstance(articles[0].get("paragraphs"), list)


def questions(articles: list, path: str) -> Iterator[dict]:
    """Rows with id, title, context, question and answers {"text": [...], "answer_start": [...]}.

    A question that `is_impossible` has no answers; what its file calls plausible is left out. `answers` is None where
    the file has none at all. Raises UserError that names the place of what is not as it should be.
    """
    for a, article in enumerate(articles, 1):
        for p, paragraph in enumerate(_list(article, "paragraphs", f"{path}, article {a}"), 1):
            where = f"{path}, article {a}, paragraph {p}"
            for q, asked in enumerate(_list(paragraph, "qas", where), 1):
                place = f"{where}, question {q}"
                yield {
                    "id": _text(asked, "id", place),
                    "title": str(article.get("title", "")),
                    "context": _text(paragraph, "context", where),
                    "question": _text(asked, "question", place),
                    "answers": _answers(asked, place),
                }


def _answers(asked: dict, where: str) -> dict | None:
    if asked.get("is_impossible"):
        return {"text": [], "answer_start": []}
    if asked.get("answers") is None:
        return None
    answers = _list(asked, "answers", where)
    for answer in answers:
        if not isinstance(answer, dict) or type(answer.get("answer_start")) is not int:
            raise UserError(f"{where}: expected answers with text and answer_start, found {shown(answer)}")
    texts = [_text(answer, "text", where) for answer in answers]
    return {"text": texts, "answer_start": [answer["answer_start"] for answer in answers]}


def _list(value, name: str, where: str) -> list:
    if not isinstance(value, dict) or not isinstance(value.get(name), list):
        raise UserError(f"{where}: expected an object with a list {name!r}, found {shown(value)}")
    return value[name]


def _text(value, name: str, where: str) -> str:
    if not isinstance(value, dict) or not isinstance(value.get(name), str):
        raise UserError(f"{where}: expected an object with a text {name!r}, found {shown(value)}")
    return value[name]
