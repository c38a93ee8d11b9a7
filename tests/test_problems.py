"""What messages quote is short, whatever the user's data hold, and equal problems are said once."""

import json

import pytest
from conftest import rows_of

from jaxft.config import Config
from jaxft.data import Data
from jaxft.data.encoded import encode_all
from jaxft.models.checkpoint.sentence_transformers import read_embedding
from jaxft.optim.sgd import SGD
from jaxft.problems import (
    LONGEST,
    MOST,
    WHOLE,
    UserError,
    listed,
    near,
    raise_problems,
    truncated_repr,
    with_row_numbers,
)
from jaxft.tasks.base import EncodingContext
from jaxft.tasks.classify import Classify, MultiLabel, Regress
from jaxft.tasks.cloze import Cloze
from jaxft.tasks.contrastive_embedding import ContrastiveEmbedding, Similarity
from jaxft.tasks.multiple_choice import MultipleChoice
from jaxft.tasks.template import columns_of
from jaxft.tasks.token_classification import TokenClassification

TEXT, MANY = "long " * 60_000, list(range(100_000))
NESTED = {"text": TEXT, "items": MANY, TEXT: None}
GIANTS = [TEXT, MANY, [TEXT] * 3, NESTED, [[NESTED]], 10**5000, {TEXT: TEXT}, (TEXT,), TEXT.encode(), {*MANY}]


@pytest.mark.parametrize("value", GIANTS, ids=lambda value: type(value).__name__)
def test_shown(value):
    assert len(truncated_repr(value)) <= LONGEST and len(listed([value] * 3)) <= 4 * LONGEST


def test_what_is_short_is_shown_as_python_writes_it():
    for value in ("a", "it's", ["b", 1], {"z": 1, "a": None}, (1,), None, True, 1.5, [], {}, b"x", [[1, 2], [3]]):
        assert eval(truncated_repr(value)) == value
    assert listed(["a", "b"]) == "a, b" and listed(map(str, range(12))).endswith("8, 9, ... (12 in all)")
    deep = []
    for _ in range(2000):
        deep = [deep]
    assert truncated_repr(deep) == "[[[[[...]]]]]"


def test_problems_are_bounded():
    error = UserError([f"begins {TEXT} ends with the fix", *("problem" for _ in range(1000))])
    assert len(error.problems[0]) < WHOLE and error.problems[0].startswith("begins")
    assert error.problems[0].endswith("ends with the fix")
    assert str(error).endswith(f"{1001 - MOST} more problems") and len(str(error)) < 2 * WHOLE
    with pytest.raises(UserError, match="column 'a' is missing"):
        raise_problems(["column 'a' is missing"])
    assert near(TEXT, [TEXT]) == [] and near("postive", ["positive", TEXT]) == ["positive"]


def test_equal_problems_and_others():
    rows = [{"x": number} for number in (1, 2, 1, *range(10, 40))]

    def read(some):
        raise_problems(f"{row['x']} is odd" for row in some if row["x"] != 2)

    with pytest.raises(UserError) as caught:
        read(rows)
    found = with_row_numbers(caught.value, rows, 5, "file", read).problems
    assert found[:2] == ["file, 2 rows, first 5: 1 is odd", "file, row 8: 10 is odd"]
    assert len(found) == 11 and found[-1] == "file: 21 more problems like these"
    many = [{"x": 1}] * 5000
    assert with_row_numbers(caught.value, many, 1, "file", read).problems == [
        "file, at least 1,000 rows, first 1: 1 is odd"
    ]


def row(**cells):
    return {"text": "a", "label": "x", "a": "a", "b": "b", "tokens": ["a"], "ner_tags": ["O"], **cells}


TASKS = {
    "text": (Classify(labels=("x",)), "text"),
    "label": (Classify(labels=("x",)), "label"),
    "unsettled": (Classify(), "label"),
    "set": (MultiLabel(label="label", labels=("x",)), "label"),
    "number": (Regress(), "label"),
    "score": (Similarity(text="a", pair="b", label="label"), "label"),
    "pair": (ContrastiveEmbedding(text="a", pair="b"), "b"),
    "words": (TokenClassification(labels=("O",)), "tokens"),
    "tags": (TokenClassification(labels=("O",)), "ner_tags"),
    "choice": (MultipleChoice(text="text", choices=("a", "b")), "label"),
    "choices": (MultipleChoice(text="text", choices=("a",), label="label"), "a"),
    "gap": (Cloze(text="text", query="a", names="tokens", answers="ner_tags"), "a"),
    "names": (Cloze(text="text", query="a", names="tokens", answers="ner_tags", gap="a"), "tokens"),
}


@pytest.mark.parametrize("case", TASKS)
@pytest.mark.parametrize("value", [TEXT, [TEXT] * 3, [MANY], NESTED], ids=["text", "texts", "numbers", "object"])
def test_cells_of_tasks(case, value, bert_tokenizer, tiny_bert):
    """Whether they are read or refused, nothing of this size is written out."""
    task, column = TASKS[case]
    rows = rows_of([row(), row(**{column: value}), row(**{column: value})])
    setting = EncodingContext(bert_tokenizer, 16, embedding=read_embedding(tiny_bert))
    try:
        settled = task.prepare(rows, setting)
        encode_all(rows, lambda some: settled.encode(some, setting), name=rows.name)
    except UserError as error:
        assert len(str(error)) < 1000


def refused(make) -> str:
    with pytest.raises((UserError, ValueError)) as caught:
        make()
    return str(caught.value)


def test_files_and_settings(tmp_path, tiny_bert):
    def file(name, text):
        (tmp_path / name).write_text(text)
        return lambda: Data(path=str(tmp_path / name)).open()

    wide = ",".join(f"column {number}" for number in range(10_000))
    qas = {"id": 1, "question": NESTED, "answers": []}
    nested = {"data": [{"paragraphs": [{"context": "a", "qas": [qas]}]}]}
    made = [
        file("wide.csv", f"{wide}\n1,2\n"),
        file("twice.csv", f"{wide},{wide}\n1\n"),
        file("squad.json", json.dumps(nested)),
        file("other.json", json.dumps({"data": [{"paragraphs": [{"context": NESTED}]}]})),
        lambda: Data(path=str(tmp_path / "wide.csv"), quote=TEXT, columns=(TEXT, TEXT), delimiter=TEXT).open(),
        lambda: columns_of("{" + TEXT),
        lambda: columns_of("{" + TEXT + ".x}"),
        lambda: raise_problems(SGD(nesterov=TEXT).problems()),
        lambda: raise_problems(ContrastiveEmbedding(pooling=TEXT).problems()),
        lambda: raise_problems(TokenClassification(scheme=TEXT, pieces=TEXT).problems()),
        lambda: raise_problems(
            Config(
                model=str(tiny_bert), task=Classify(), data=Data(path="x"), dtype=TEXT, remat=MANY, lr=TEXT
            ).problems()
        ),
    ]
    for make in made:
        assert len(refused(make)) < 1500, refused(make)[:200]


def test_files_that_cannot_be_what_their_names_say(tmp_path):
    """Advice that works."""
    (tmp_path / "a.csv").write_text("review;sentiment\ngood, or not;1\nbad\n")
    said = refused(lambda: Data(path=str(tmp_path / "a.csv")).open())
    assert "the delimiter seems to be ';', but the rows do not have as many cells. Set delimiter=';'" in said
    (tmp_path / "a.csv").write_text("review;sentiment\ngood, or not;1\n")
    assert Data(path=str(tmp_path / "a.csv"), delimiter=";").open()[:] == [{"review": "good, or not", "sentiment": "1"}]
    assert Data(path=str(tmp_path / "a.csv"), delimiter=",", limit=1).problems() == []
    (tmp_path / "b.tsv").write_text("text,label\na,b,c\n")
    assert "seems to be ','" in refused(lambda: Data(path=str(tmp_path / "b.tsv")).open())
    assert Data(path=str(tmp_path / "b.tsv"), delimiter="\t").open()[:] == [{"text,label": "a,b,c"}]
    assert Data(path="x", delimiter=";;").problems()
    (tmp_path / "c.docx").write_bytes(b"PK\x03\x04\x14\0\0\0")
    said = refused(lambda: Data(path=str(tmp_path / "c.docx")).open())
    assert "save its rows as .csv or .jsonl" in said and "columns" not in said
    (tmp_path / "d.pos").write_text("Bonn NNP\n")
    assert "name its columns" in refused(lambda: Data(path=str(tmp_path / "d.pos")).open())
