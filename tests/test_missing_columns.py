"""Data without the columns that a task reads: the flag that names them, and only the columns that are read matter."""

import dataclasses
import json

import pytest
from conftest import rows_of

from jaxft.config import Config, Eval
from jaxft.data import Blanked, Data
from jaxft.problems import UserError
from jaxft.tasks.classify import Classify, MultiLabel
from jaxft.tasks.entity_spans import EntitySpans
from jaxft.tasks.token_classification import TokenClassification
from jaxft.training.missing_columns import missing_columns
from jaxft.training.sources import open_sources

SPAN = [{"start": 0, "end": 1, "label": "X"}]
CASES = {
    "similar name": (TokenClassification(), {"token": ["a"], "ner_tags": ["O"]}, ["words=token"]),
    "words and tags": (TokenClassification(), {"w": ["a", "b"], "t": ["O", "B-X"], "n": 1}, ["words=w", "tags=t"]),
    "numbered tags": (TokenClassification(), {"w": ["a", "b"], "t": [0, 1]}, ["words=w", "tags=t"]),
    "several lists": (TokenClassification(), {"w": ["a"], "v": ["a"], "ner_tags": ["O"]}, ["words=COLUMN"]),
    "text and label": (
        Classify(),
        {"review": "a good {i}", "class": "{i3}", "id": "{i}"},
        ["text=review", "label=class"],
    ),
    "several texts": (Classify(), {"one": "a good {i}", "two": "the bad {i}", "label": "x"}, ["text=COLUMN"]),
    "spans": (EntitySpans(), {"text": "a", "marks": SPAN}, ["spans=marks"]),
    "numbers are no texts": (Classify(), {"ticket": "{i}", "label": "x", "body": "a good {i}"}, ["text=body"]),
    "used already": (Classify(text="body"), {"label": "a word {i}", "number": "{i}"}, ["text=COLUMN"]),
}


def cells(value, number):
    return value.replace("{i3}", str(number % 3)).replace("{i}", str(number)) if isinstance(value, str) else value


def data(row):
    return rows_of([{name: cells(value, number) for name, value in row.items()} for number in range(12)])


@pytest.mark.parametrize("case", CASES)
def test_the_flag_and_what_to_write(case):
    task, row, wanted = CASES[case]
    found = missing_columns(task, data(row), "config.data")
    assert len(found) == len(wanted)
    for problem, flag in zip(found, wanted, strict=True):
        assert problem.startswith("config.data: there is no column ")
        assert problem.endswith(f"Name the right one: --config.task.{flag}")
        assert ("Did you mean" in problem) == ("COLUMN" not in flag) and f"Columns: {', '.join(row)}." in problem


def test_the_flags_work(tmp_path, tiny_bert):
    """What the message says, given as flags, mends the configuration."""
    lines = [{"review": f"a good {i}", "class": f"{i % 3}"} for i in range(12)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    source = Data(path=str(tmp_path / "a.jsonl"))
    cfg = Config(
        model=str(tiny_bert), task=Classify(), data=source, evals={"v": Eval(data=source)}, steps=1, lr=1e-3, batch=8
    )
    with pytest.raises(UserError) as caught:
        open_sources(cfg)
    problems = caught.value.problems
    assert [problem.split(":")[0] for problem in problems] == ["config.data"] * 2 + ["config.evals.v.data"] * 2
    flags = list(dict.fromkeys(problem.rpartition(" ")[2] for problem in problems))
    assert flags == ["--config.task.text=review", "--config.task.label=class"]
    mended = cfg
    for flag in flags:
        name, _, value = flag.removeprefix("--config.task.").partition("=")
        mended = dataclasses.replace(mended, task=dataclasses.replace(mended.task, **{name: value}))
    assert len(open_sources(mended)["train"]) == 12


def test_templates_and_tuples():
    rows = data({"left": "a b {i}", "right": "a b {i}", "toxic": 1})
    (problem,) = missing_columns(Classify(text="{left}: {rigth}", label="toxic"), rows, "config.data")
    assert "there is no column 'rigth'. Did you mean 'right'?" in problem
    assert problem.endswith("Name the right one in --config.task.text, which is '{left}: {rigth}'")
    (problem,) = missing_columns(MultiLabel(text="left", label=("toxic", "insult")), rows, "config.data")
    assert "no column 'insult'" in problem and problem.endswith("config.task.label, which is ('toxic', 'insult')")


def test_only_columns_that_are_read_matter(tmp_path, tiny_bert):
    """Of several files, and of one with a repeated name; also below a source that changes rows."""
    (tmp_path / "a.csv").write_text("text,label,note\na b,1,x\n")
    (tmp_path / "b.csv").write_text("label,text,more,more,\n0,c d,1,2,3\n")
    source = Data(path=str(tmp_path / "*.csv"))

    def opened(task, data=source):
        cfg = Config(model=str(tiny_bert), task=task, data=data, steps=1, lr=1e-3, batch=8)
        return open_sources(cfg)["train"].only(task.columns())[:]

    assert opened(Classify()) == [{"text": "a b", "label": "1"}, {"text": "c d", "label": "0"}]
    assert opened(Classify(), Blanked(data=source, columns=("text",)))[1] == {"text": "", "label": "0"}
    for name, why in {"note": "b.csv has no column 'note', which ", "more": "a.csv has no column 'more'"}.items():
        for given in (source, Blanked(data=source, columns=("text",))):
            with pytest.raises(UserError, match=why):
                opened(Classify(label=name), given)
    with pytest.raises(UserError, match="b.csv: the header has 'more' more than once: rename columns"):
        opened(Classify(label="more"), Data(path=str(tmp_path / "b.csv")))
