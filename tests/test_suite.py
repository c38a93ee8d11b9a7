"""Benchmarks as one command: rows in the data set's own layout, two steps of each task, and the server's files."""

import json
from pathlib import Path

import datasets
import numpy as np
import pytest

import jaxft
from jaxft import suite
from jaxft.cli import command
from jaxft.problems import UserError

TEXTS = ["a good film", "a bad film", "the cat sat on the mat", "it was raining", "the dog sat", "numbers such as 10"]
NAMES = {
    "cola": ("sentence", None, ["unacceptable", "acceptable"]),
    "sst2": ("sentence", None, ["negative", "positive"]),
    "mrpc": ("sentence1", "sentence2", ["not_equivalent", "equivalent"]),
    "stsb": ("sentence1", "sentence2", None),
    "qqp": ("question1", "question2", ["not_duplicate", "duplicate"]),
    "mnli": ("premise", "hypothesis", ["entailment", "neutral", "contradiction"]),
    "qnli": ("question", "sentence", ["entailment", "not_entailment"]),
    "rte": ("sentence1", "sentence2", ["entailment", "not_entailment"]),
    "wnli": ("sentence1", "sentence2", ["not_entailment", "entailment"]),
    "ax": ("premise", "hypothesis", ["entailment", "neutral", "contradiction"]),
}
FILES = "CoLA SST-2 MRPC STS-B QQP MNLI-m MNLI-mm QNLI RTE WNLI AX".split()


def glue(directory: Path) -> Path:
    """A folder for each task, with a Parquet file for each split, as on the hub; a test's labels are -1."""
    rng = np.random.default_rng(0)
    for task, (text, pair, names) in NAMES.items():
        kind = datasets.Value("float32") if names is None else datasets.ClassLabel(names=names)
        columns = [column for column in (text, pair) if column]
        features = {name: datasets.Value("string") for name in columns} | {
            "label": kind,
            "idx": datasets.Value("int32"),
        }
        splits = ["train"] + [
            f"{split}{end}"
            for split in ("validation", "test")
            for end in (("_matched", "_mismatched") if task == "mnli" else ("",))
        ]
        for split in ["test"] if task == "ax" else splits:
            rows = {name: [TEXTS[(i + 2 * at) % 6] for i in range(9)] for at, name in enumerate(columns)}
            labels = rng.uniform(0, 5, 9) if names is None else np.arange(9) % len(names)
            labels = [-1.0 if names is None else -1] * 9 if split.startswith("test") else labels.tolist()
            table = datasets.Dataset.from_dict(
                rows | {"label": labels, "idx": list(range(30, 39))}, datasets.Features(features)
            )
            (directory / task).mkdir(parents=True, exist_ok=True)
            table.to_parquet(str(directory / task / f"{split}-00000-of-00001.parquet"))
    return directory


def called(capsys, *argv) -> list[dict]:
    flags = [command.SUITE, command.WORKDIR, command.Flag("only", "")]
    suite.main(command.parse([*map(str, argv)], *flags))
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.slow
def test_glue(tiny_bert, tmp_path, capsys, one_device):
    data, workdir = glue(tmp_path / "glue"), tmp_path / "run"
    short = {
        "epochs": None,
        "steps": 2,
        "batch": 4,
        "max_len": 32,
        "batching.buckets": "(32,)",
        "mesh.data": 1,
        "model": tiny_bert,
    }
    argv = [f"--suite=configs/glue.py:{data}", f"--workdir={workdir}", *(f"--config.{k}={v}" for k, v in short.items())]
    *tasks, row = called(capsys, *argv)
    assert [task["task"] for task in tasks] == [name for name in NAMES if name != "ax"]
    assert row["suite"] == "glue" and row["average"] == pytest.approx(np.mean([t["score"] for t in tasks]), abs=0.01)
    mnli = tasks[5]
    metrics = [json.loads(line) for line in (workdir / "mnli/metrics.jsonl").read_text().splitlines()]
    wanted = {line["split"]: 100 * line["accuracy"] for line in metrics if line["split"].endswith("matched")}
    assert mnli == {
        "task": "mnli",
        "score": np.mean(list(wanted.values())),
        "matched/accuracy": wanted["matched"],
        "mismatched/accuracy": wanted["mismatched"],
    }
    mrpc = tasks[2]
    assert mrpc["score"] == pytest.approx((mrpc["validation/f1"] + mrpc["validation/accuracy"]) / 2)

    lines = {file: (workdir / f"submission/{file}.tsv").read_text().splitlines() for file in FILES}
    assert all(text[0] == "index\tprediction" and len(text) == 10 for text in lines.values())
    answers = {file: dict(line.split("\t") for line in text[1:]) for file, text in lines.items()}
    assert all(list(found) == list(map(str, range(30, 39))) for found in answers.values())
    for file in ("CoLA", "SST-2", "MRPC", "QQP", "WNLI"):
        assert set(answers[file].values()) <= {"0", "1"}
    for file in ("QNLI", "RTE"):
        assert set(answers[file].values()) <= {"entailment", "not_entailment"}
    for file in ("MNLI-m", "MNLI-mm", "AX"):
        assert set(answers[file].values()) <= {"entailment", "neutral", "contradiction"}
    assert all(0 <= float(value) <= 5 for value in answers["STS-B"].values())
    model = jaxft.load(str(workdir / "cola/model"))
    labels = [answer["label"] for answer in model.predict([TEXTS[i % 6] for i in range(9)])]
    assert [NAMES["cola"][2][int(value)] for value in answers["CoLA"].values()] == labels

    # Again, with one submission lost: no task is trained again, and the file comes back the same.
    before = (workdir / "submission/RTE.tsv").read_bytes()
    (workdir / "submission/RTE.tsv").unlink()
    only = called(capsys, *argv, "--only=rte,wnli")
    assert only[:2] == [task for task in tasks if task["task"] in ("rte", "wnli")]
    assert (workdir / "submission/RTE.tsv").read_bytes() == before
    assert [json.loads(line)["step"] for line in (workdir / "rte/metrics.jsonl").read_text().splitlines()][-1] == 2


def test_what_is_no_suite(tmp_path):
    flags = [command.SUITE, command.WORKDIR, command.Flag("only", "")]

    def refused(*argv):
        with pytest.raises(UserError) as error:
            suite.main(command.parse([*argv, f"--workdir={tmp_path}"], *flags))
        return str(error.value)

    assert "has no function get_entries" in refused("--suite=configs/quickstart.py")
    assert "there is no configuration file" in refused("--suite=configs/gleu.py")
    assert "there is no task 'colla', only cola, " in refused("--suite=configs/glue.py", "--only=colla,sst2")
    assert "ax is answered by the model of mnli, which is not trained" in refused(
        "--suite=configs/glue.py", "--only=ax"
    )
    for config, sentence in (
        ("glue.py:colla", "there is no task 'colla'"),
        ("squad.py:v3", "there is no version 'v3'"),
    ):
        with pytest.raises(UserError, match=sentence):
            command.parse([f"--config=configs/{config}"], command.CONFIG)


QUESTIONS = {"a": "Was the cat on the mat?", "b": "Did the dog sit?"}
SUPER = {  # task -> columns of its texts, and its classes
    "boolq": (("passage", "question"), ["False", "True"]),
    "cb": (("premise", "hypothesis"), ["entailment", "contradiction", "neutral"]),
    "copa": (("premise", "choice1", "choice2"), ["choice1", "choice2"]),
    "multirc": (("paragraph", "question", "answer"), ["False", "True"]),
    "record": (("passage",), None),
    "rte": (("premise", "hypothesis"), ["entailment", "not_entailment"]),
    "wic": (("word", "sentence1", "sentence2"), ["False", "True"]),
    "wsc": (("text", "span1_text", "span2_text"), ["False", "True"]),
    "axb": (("sentence1", "sentence2"), ["entailment", "not_entailment"]),
    "axg": (("premise", "hypothesis"), ["entailment", "not_entailment"]),
}


def superglue(directory: Path) -> Path:
    """As on the hub: MultiRC has a row for each answer, ReCoRD lists of names; a test's labels are -1, or empty."""
    for task, (columns, names) in SUPER.items():
        rows = {name: [TEXTS[(i + 2 * at) % 6] for i in range(8)] for at, name in enumerate(columns)}
        rows["idx"] = list(range(70, 78))
        if task == "copa":
            rows["question"] = ["cause", "effect"] * 4
        if task == "multirc":
            rows["idx"] = [{"paragraph": i // 4, "question": i // 2, "answer": i} for i in range(8)]
        if task == "record":
            rows["idx"] = [{"passage": i // 2, "query": 70 + i} for i in range(8)]
            rows["query"] = ["the @placeholder sat"] * 8
            rows["entities"] = [["cat", "dog", "log"][: 2 + i % 2] for i in range(8)]
        for split in ["test"] if task.startswith("ax") else ["train", "validation", "test"]:
            hidden = split == "test"
            if task == "record":
                more = {"answers": [[] if hidden else ["cat"]] * 8}
            else:
                more = {"label": [-1] * 8 if hidden else [i % len(names) for i in range(8)]}
            table = datasets.Dataset.from_dict(rows | more)
            if names:
                table = table.cast_column("label", datasets.ClassLabel(names=names))
            (directory / task).mkdir(parents=True, exist_ok=True)
            table.to_parquet(str(directory / task / f"{split}-00000-of-00001.parquet"))
    return directory


@pytest.mark.slow
def test_superglue(tiny_bert, tmp_path, capsys, one_device):
    data, workdir = superglue(tmp_path / "superglue"), tmp_path / "run"
    short = {"epochs": None, "steps": 2, "batch": 4, "max_len": 32, "batching.buckets": "(64,)", "mesh.data": 1}
    short |= {"model": tiny_bert}
    argv = [f"--suite=configs/superglue.py:{data}", f"--workdir={workdir}"]
    *tasks, row = called(capsys, *argv, *(f"--config.{k}={v}" for k, v in short.items()))
    assert [task["task"] for task in tasks] == [name for name in SUPER if not name.startswith("ax")]
    found = {task.pop("task"): task for task in tasks}
    assert row["suite"] == "superglue"
    assert row["average"] == pytest.approx(np.mean([task["score"] for task in found.values()]), abs=0.01)
    for task, names in {"cb": "f1_macro accuracy", "multirc": "f1 exact_match", "record": "f1 exact_match"}.items():
        scores = [found[task][f"validation/{name}"] for name in names.split()]
        assert found[task]["score"] == pytest.approx(np.mean(scores))

    files = "BoolQ CB COPA MultiRC ReCoRD RTE WiC WSC AX-b AX-g".split()
    lines = {name: (workdir / f"submission/{name}.jsonl").read_text().splitlines() for name in files}
    answers = {name: [json.loads(line) for line in some] for name, some in lines.items()}
    passages = answers.pop("MultiRC")
    assert [passage["idx"] for passage in passages] == [0, 1]
    inside = [question for passage in passages for question in passage["passage"]["questions"]]
    assert [question["idx"] for question in inside] == [0, 1, 2, 3]
    assert [answer["idx"] for question in inside for answer in question["answers"]] == list(range(8))
    assert {answer["label"] for question in inside for answer in question["answers"]} <= {0, 1}
    classes = {
        "BoolQ": {"true", "false"},
        "WiC": {"true", "false"},
        "WSC": {"True", "False"},
        "COPA": {0, 1},
        "ReCoRD": {"cat", "dog", "log"},
        "CB": {*SUPER["cb"][1]},
    }
    for name, some in answers.items():
        assert [answer["idx"] for answer in some] == list(range(70, 78))
        assert {answer["label"] for answer in some} <= classes.get(name, {"entailment", "not_entailment"}), name
    assert set(json.loads((workdir / "record/predictions/validation.json").read_text())) == set(map(str, range(70, 78)))
