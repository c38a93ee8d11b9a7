"""A column without its texts: nothing else changes, and a pair task trains on what is left."""

import json

import numpy as np
import pytest

from jaxft.config import Config, Eval
from jaxft.data import Blanked, Data, Pad
from jaxft.problems import UserError
from jaxft.tasks.classify import Classify
from jaxft.training.fit import fit
from jaxft.training.setup import build

ROWS = [
    {"premise": "the cat sat on the mat", "hypothesis": "the cat sat", "label": "yes"},
    {"premise": None, "hypothesis": "a dog sat", "label": "no"},
    {"premise": "a good film", "hypothesis": "a bad film", "label": "no"},
    {"premise": "bad actors", "hypothesis": "actors", "label": "yes"},
]


@pytest.fixture
def data(tmp_path):
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return Data(path=str(tmp_path / "pairs.jsonl"))


def test_only_the_named_columns_are_emptied(data):
    rows = Blanked(data=data, columns=("premise",)).open()
    assert list(rows) == [row | {"premise": ""} for row in ROWS] and rows[2]["premise"] == ""
    assert rows.columns == ["premise", "hypothesis", "label"] and data.open()[0] == ROWS[0]
    assert list(Blanked(data=data, columns=("premise", "hypothesis")).open())[3] == {
        "premise": "",
        "hypothesis": "",
        "label": "yes",
    }


def test_a_pair_task_sees_one_text_only(data, tiny_bert, tmp_path, one_device):
    """The tokens are those of the hypothesis behind an empty text, as the tokenizer makes them of such a pair."""
    blanked = Blanked(data=data, columns=("premise",))
    cfg = Config(
        model=str(tiny_bert),
        task=Classify(text="premise", pair="hypothesis"),
        data=blanked,
        evals={"val": Eval(data=Blanked(data=data, columns=("premise",)))},
        lr=1e-3,
        batch=2,
        steps=2,
        max_len=32,
        batching=Pad(buckets=(32,)),
    )
    built = build(cfg)
    tokenizer, encoded = built.setting.tokenizer, built.encode("train")
    for number, row in enumerate(ROWS):
        np.testing.assert_array_equal(encoded[number]["tokens"], tokenizer("", row["hypothesis"])["input_ids"])
    scores = fit(cfg, str(tmp_path / "run")).metrics
    assert 0 <= scores["val"]["accuracy"] <= 1


def test_mistakes(tmp_path, data):
    def message(**fields):
        with pytest.raises(UserError) as caught:
            Blanked(**fields).open()[:]
        return str(caught.value)

    assert "no column 'premis'. Did you mean 'premise'?" in message(data=data, columns=("premis",))
    assert "columns is empty" in message(data=data, columns=())
    (tmp_path / "words.jsonl").write_text('{"tokens": ["a"]}\n{"tokens": ["b"]}\n')
    said = message(data=Data(path=str(tmp_path / "words.jsonl")), columns=("tokens",))
    assert "row 1: column 'tokens' holds ['a'], expected a text" in said
