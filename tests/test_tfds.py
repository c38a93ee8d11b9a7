"""Data sets that TensorFlow Datasets prepared, here by a builder of its own: rows, classes, splits, what is missing."""

import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds

from jaxft.config import Config, Eval
from jaxft.data import TFDS, Pad
from jaxft.data.source import as_rows
from jaxft.problems import UserError
from jaxft.tasks.classify import Classify
from jaxft.training.fit import fit

TEXTS = ["the cat sat", "a good film", "é, 10 & 20", "a bad film", "", "the dog sat on the log", "dull"]


def examples(count: int) -> list[dict]:
    return [
        {
            "sentence": text,
            "label": i % 2 if count > 2 else -1,
            "idx": i,
            "score": i / 2,
            "words": text.split(),
            "tags": [j % 2 for j in range(len(text.split()))],
            "answers": [{"text": "é", "start": i}] * (i % 3),
            "more": {"a": "ß", "b": {"c": i % 2 == 0}},
            "vector": [[i, 1], [2, 3]],
        }
        for i, text in enumerate(TEXTS[:count])
    ]


def read_back(row: dict) -> dict:
    """As sources give it: a list of dicts becomes a dict of lists."""
    answers = {key: [answer[key] for answer in row["answers"]] for key in ("text", "start")}
    return row | {"answers": answers}


class Tiny(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = tfds.features
        kinds = {
            "sentence": features.Text(),
            "label": features.ClassLabel(names=["bad", "good"]),
            "idx": np.int32,
            "score": np.float32,
            "words": features.Sequence(features.Text()),
            "tags": features.Sequence(features.ClassLabel(names=["O", "X"])),
            "answers": features.Sequence({"text": features.Text(), "start": np.int32}),
            "more": {"a": features.Text(), "b": {"c": np.bool_}},
            "vector": features.Tensor(shape=(2, 2), dtype=np.int64),
        }
        return tfds.core.DatasetInfo(builder=self, features=features.FeaturesDict(kinds))

    def _split_generators(self, manager):
        return {"train": self._generate_examples(7), "validation": self._generate_examples(2)}

    def _generate_examples(self, count):
        yield from enumerate(examples(count))


class TinyCola(Tiny, skip_registration=True):
    """Not known to the library: it finds the files only, as it does those of whoever prepared them elsewhere."""


class AtFirstUse(Tiny):
    """Known to the library, and prepared when it is asked for."""


class FarAway(Tiny):
    """Known to the library, and not to be had."""

    def _split_generators(self, manager):
        raise ConnectionError("no route to the host\nand more")


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    place = tmp_path_factory.mktemp("tfds")
    TinyCola(data_dir=place, file_format="array_record").download_and_prepare()
    return str(place)


def message(**fields) -> str:
    with pytest.raises(UserError) as caught:
        TFDS(**fields).open()[:]
    return str(caught.value)


def test_rows_are_those_that_were_written(directory):
    rows = TFDS(name="tiny_cola", directory=directory).open()
    assert len(rows) == 7 and set(rows.columns) == set(examples(1)[0]) and as_rows(rows, "x") is rows
    read = list(rows)
    assert sorted(read, key=lambda row: row["idx"]) == [read_back(row) for row in examples(7)]
    assert {type(value) for row in read for value in (row["idx"], row["more"]["b"]["c"])} == {int, bool}
    assert all(type(start) is int for row in read for start in row["answers"]["start"])
    assert [rows[i] for i in (6, 0, -1)] == [read[6], read[0], read[6]] and rows[2:4] == read[2:4] and rows[7:] == []


def test_classes_have_names(directory):
    rows = TFDS(name="tiny_cola:1.0.0", directory=directory, split="validation").open()
    assert rows.classes == {"label": ["bad", "good"], "tags": ["O", "X"]}
    assert [row["label"] for row in rows.named()] == [None, None]  # -1: of a test set, whose classes are kept secret
    named = {row["idx"]: row for row in TFDS(name="tiny_cola", directory=directory).open().named()}
    assert [named[i]["label"] for i in range(3)] == ["bad", "good", "bad"] and named[0]["tags"] == ["O", "X", "O"]


def test_parts_of_splits(directory):
    whole = list(TFDS(name="tiny_cola", directory=directory).open())
    assert list(TFDS(name="tiny_cola", directory=directory, split="train[2:4]").open()) == whole[2:4]
    assert len(TFDS(name="tiny_cola", directory=directory, split="train[:3]+validation").open()) == 5
    assert len(TFDS(name="tiny_cola", directory=directory, split="all").open()) == 9


def test_where_it_is_by_itself(directory, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", directory)
    assert len(TFDS(name="tiny_cola").open()) == 7


def test_prepared_at_first_use(tmp_path, capsys):
    for _ in range(2):
        assert len(TFDS(name="at_first_use", directory=str(tmp_path), split="validation").open()) == 2
    assert capsys.readouterr().out == ""  # which belongs to a command's results
    assert (tmp_path / "at_first_use" / "1.0.0" / "dataset_info.json").exists()


def test_what_is_missing_is_named(directory, tmp_path):
    said = message(name="tiny_cola", directory=directory, split="validatoin")
    assert "no split 'validatoin'. Did you mean 'validation'? Set split to one of: train, validation" in said
    assert "no split 'tran'" in message(name="tiny_cola", directory=directory, split="validation+tran[:2]")
    said = message(name="tiny_cola", directory=directory, split="train[")
    assert "tiny_cola, split 'train[': Error parsing split" in said
    assert "has no rows in its split" in message(name="tiny_cola", directory=directory, split="train[:0]")
    said = message(name="tiny_colla", directory=directory)
    assert "no data set 'tiny_colla'" in said and "Did you mean 'tiny_cola:1.0.0'?" in said
    assert f"Prepared in {directory}: tiny_cola:1.0.0" in said
    assert "Did you mean 'imdb_reviews'?" in message(name="imdb_reveiws", directory=str(tmp_path))
    assert "Prepared in" in message(name="tiny_cola:2.0.0", directory=directory)
    assert "no data set 'a b'" in message(name="a b", directory=directory)
    said = message(name="far_away", directory=str(tmp_path))
    assert "far_away cannot be prepared here (no route to the host): prepare it with tfds build far_away" in said
    assert "name is empty" in message(name=" ") and "split is empty" in message(name="tiny_cola", split="")


def test_another_format(directory, tmp_path):
    place = shutil.copytree(directory, tmp_path / "records")
    info = place / "tiny_cola" / "1.0.0" / "dataset_info.json"
    info.write_text(info.read_text().replace("array_record", "tfrecord"))
    said = message(name="tiny_cola", directory=str(place))
    assert "prepared as tfrecord, which has no random access: prepare it with tfds build tiny_cola" in said


def test_bytes_that_are_no_text(tmp_path):
    class Bytes(Tiny, skip_registration=True):
        def _info(self):
            features = tfds.features.FeaturesDict({"sentence": tfds.features.Text()})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, manager):
            return {"train": [(0, {"sentence": b"\xff"})]}

    Bytes(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    assert "bytes (train), row 1: bytes that are not UTF-8" in message(name="bytes", directory=str(tmp_path))


def test_without_the_package(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    assert "pip install 'jaxft[tfds]'" in message(name="tiny_cola")


def test_tensorflow_is_not_imported(directory):
    """Nor anything else that is large, by itself."""
    code = f"""import sys
from jaxft.data import TFDS, Pad
assert "tensorflow_datasets" not in sys.modules
assert len(list(TFDS(name="tiny_cola", directory={directory!r}).open())) == 7
assert not {{"tensorflow", "jax", "torch"}} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, env=os.environ, cwd=os.getcwd())


def test_a_run(directory, tiny_bert, tmp_path, one_device):
    cfg = Config(
        model=str(tiny_bert),
        task=Classify(text="sentence"),
        data=TFDS(name="tiny_cola", directory=directory),
        evals={"val": Eval(data=TFDS(name="tiny_cola", directory=directory, split="train[:4]"))},
        lr=1e-3,
        batch=4,
        steps=2,
        max_len=32,
        batching=Pad(buckets=(32,)),
    )
    scores = fit(cfg, str(tmp_path / "run")).metrics
    assert 0 <= scores["val"]["accuracy"] <= 1
    assert '"bad"' in (tmp_path / "run" / "model" / "config.json").read_text()
