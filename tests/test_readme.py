"""Every command of the README and of the pages under docs/, as it stands there."""

import csv
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXT = "\n".join(page.read_text() for page in PAGES)
BLOCKS = re.findall(r"```sh\n(.*?)```", TEXT, re.S)
COMMANDS = [line for block in BLOCKS for line in block.replace("\\\n", " ").strip().splitlines()]
# Shorter, so that the test takes seconds; everything else is as written.
SHORT = (
    " --config.epochs=None --config.steps=4 --config.batch=8 --config.data.limit=64 --config.evals.test.data.limit=32"
)


def the(part: str) -> str:
    """The one command with this part."""
    (found,) = [command for command in COMMANDS if part in command]
    return found


def test_the_pages_have_these_commands():
    assert len(COMMANDS) == 21 and the("make test") == "make test"
    assert the("python -m venv").startswith(
        "python -m venv .venv && .venv/bin/pip install -e . && .venv/bin/jaxft train"
    )


def test_the_readme_is_short_and_its_links_lead_somewhere():
    assert len(PAGES[0].read_text().splitlines()) <= 120
    for page in PAGES:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            assert link.startswith("https://") or (page.parent / link).exists(), f"{page.name}: {link}"


@pytest.fixture(scope="module")
def checkout(tmp_path_factory):
    """A folder with what the commands need: the configurations, and a user's two files."""
    folder = tmp_path_factory.mktemp("checkout")
    for name in ("configs", "jaxft"):
        (folder / name).symlink_to(ROOT / name)
    for name, source in (("mine.csv", "train.csv"), ("mine-test.csv", "test.csv")):
        text = (ROOT / "jaxft/assets/brown-genres" / source).read_text()
        (folder / name).write_text(text.replace("text,label", "sentence,topic", 1))
    return folder


def run(command: str, folder: Path) -> str:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "XLA_FLAGS": ""}
    command = re.sub("^jaxft ", "python -m jaxft ", command).replace("python -m", f"{sys.executable} -m")
    done = subprocess.run(command, shell=True, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_quick_start_and_what_follows(checkout):
    train = the("python -m venv").rpartition("&& .venv/bin/")[2]
    scores = json.loads(run(train + SHORT, checkout))
    assert scores["split"] == "test" and 0 <= scores["accuracy"] <= 1
    assert {"config.json", "metrics.jsonl", "report.html", "checkpoints", "model"} <= set(
        os.listdir(checkout / "runs/quickstart")
    )
    evaluate, predict, export = (
        the(f"jaxft {name}")
        for name in ("evaluate ", "predict --model=runs/quickstart/model ", "export --workdir=runs/quickstart ")
    )
    assert json.loads(run(evaluate, checkout)).items() >= scores.items()
    assert json.loads(run(predict, checkout))["rows"] == 372
    answers = [json.loads(line) for line in (checkout / "runs/answers.jsonl").read_text().splitlines()]
    assert answers[0].keys() == {"text", "label", "predicted_label", "score"} and len(answers) == 372
    run(export, checkout)
    exported, model = (checkout / "runs" / name / "model.safetensors" for name in ("exported", "quickstart/model"))
    assert exported.read_bytes() == model.read_bytes()
    run(the("jaxft.explain").replace("--limit=20", "--limit=2"), checkout)
    assert "<html" in (checkout / "runs/why.html").read_text()
    python = re.search(r"```python\nimport jaxft\n.*?```", TEXT, re.S)[0].strip("`").removeprefix("python")
    (checkout / "block.py").write_text(python)
    run("python -m block", checkout)


def test_search(checkout):
    hits = [json.loads(line) for line in run(the("jaxft.search"), checkout).splitlines()]
    rows = csv_rows(ROOT / "jaxft/assets/brown-genres/test.csv")
    assert len(hits) == 3 and all(rows[hit["row"]] == {key: hit[key] for key in ("text", "label")} for hit in hits)


@pytest.mark.slow
def test_own_data(checkout):
    run(the("jaxft new classify"), checkout)
    scores = json.loads(run(the("--workdir=runs/mine") + SHORT.replace("evals.test", "evals.val"), checkout))
    assert scores["split"] == "val"
    config = json.loads((checkout / "runs/mine/config.json").read_text())
    assert config["data"]["path"] == "mine.csv" and config["task"]["label"] == "topic"


@pytest.mark.slow
def test_a_sweep(checkout):
    *points, best = map(json.loads, run(the("--workdir=runs/sweep") + SHORT, checkout).splitlines())
    assert [point["trials"] for point in points] == [2, 2] and best["command"].endswith("--workdir=runs/sweep/best")
    *points, best = map(json.loads, run(the("--search=halving") + SHORT, checkout).splitlines())
    assert [point["steps"] for point in points].count("all") == 1 and len(points) == 3
    assert "<html" in (checkout / "runs/drawn/sweep.html").read_text()


@pytest.mark.slow
def test_a_configuration_by_flags(checkout):
    lines = run(the("--workdir=runs/lion") + SHORT + " --config.evals.own.data.limit=32", checkout).splitlines()
    assert [json.loads(line)["split"] for line in lines] == ["test", "own"]
    config = json.loads((checkout / "runs/lion/config.json").read_text())
    assert config["optim"]["class"].endswith(":Lion") and config["tune"]["last_layers"] == 2
    assert "batching.length: int = 256" in run(the("--config.batching=Pack"), checkout)
    assert 'text="sentence"' in run(the("jaxft new Classify"), checkout)


@pytest.mark.slow
def test_an_adapter(checkout):
    run(the("--workdir=runs/lora --config") + SHORT, checkout)
    run(the("--format=adapter"), checkout)
    adapter = json.loads((checkout / "adapter/adapter_config.json").read_text())
    assert adapter["peft_type"] == "LORA" and adapter["r"] == 16


@pytest.mark.slow
def test_questions(checkout):
    asked = {
        "id": "1",
        "question": "who sat?",
        "answers": [{"text": "a cat", "answer_start": 0}],
        "is_impossible": False,
    }
    nothing = {"id": "2", "question": "why?", "answers": [], "plausible_answers": [], "is_impossible": True}
    paragraph = {"context": "a cat sat on the mat", "qas": [asked, nothing]}
    for name in ("train-v2.0.json", "dev-v2.0.json"):
        (checkout / name).write_text(json.dumps({"data": [{"title": "cats", "paragraphs": [paragraph]}]}))
    tiny = "model=jaxft/assets/tiny-encoder max_len=48 task.stride=8 batching.length=48 batch=2"
    scores = json.loads(
        run(" ".join([the("--workdir=runs/squad"), *(f"--config.{one}" for one in tiny.split())]), checkout)
    )
    assert {"f1", "HasAns_f1", "NoAns_f1", "best_f1", "best_f1_thresh"} <= scores.keys()
    assert json.loads((checkout / "runs/squad/predictions/validation.json").read_text()).keys() == {"1", "2"}


@pytest.mark.slow
def test_pretraining(checkout):
    rows = [{"text": row["text"]} for row in csv_rows(ROOT / "jaxft/assets/brown-genres/test.csv")[:40]]
    (checkout / "documents.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    run(the("--workdir=runs/bert") + " --config.steps=2 --config.batch=8", checkout)
    last = json.loads((checkout / "runs/bert/metrics.jsonl").read_text().splitlines()[-1])
    assert last["step"] == 2 and {"word_loss", "pair_loss", "pair_accuracy"} <= last.keys()


@pytest.mark.slow
def test_tags_of_words(checkout):
    (checkout / "conll2003").mkdir()
    for name in ("eng.train", "eng.testa", "eng.testb"):
        (checkout / "conll2003" / name).write_text("Bonn NNP I-NP I-LOC\nis VBZ I-VP O\n\nAnn NNP I-NP I-PER\n\n" * 20)
    small = " --config.model=jaxft/assets/tiny-encoder --config.max_len=64 --config.batching.length=64"
    scores = run(the("--workdir=runs/conll") + SHORT + small, checkout).splitlines()
    assert [json.loads(line)["split"] for line in scores] == ["val", "test"] and "f1_LOC" in json.loads(scores[0])
    assert json.loads(run(the("--model=runs/conll/model"), checkout))["rows"] == len(csv_rows(checkout / "mine.csv"))
    for line in (checkout / "runs/entities.jsonl").read_text().splitlines():
        row = json.loads(line)
        assert all(row["sentence"][e["start"] : e["end"]] == e["text"] for e in row["entities"])


@pytest.mark.slow
def test_the_page_on_python(checkout):
    """All blocks as one program, with a second run that uses its callback, its loss and its metric."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(), re.S)
    more = """
again = jaxft.fit(
    model="jaxft/assets/tiny-encoder", task=jaxft.Classify(text="sentence", label="topic"),
    data=frame[:64], evals={"val": frame[:64]},
    lr=5e-4, batch=32, epochs=1, max_len=32, batching=jaxft.Pad(buckets=(32,)), loss=focal,
    metrics={"first": share_of_first_class}, callbacks=[StopAtHalf()], workdir="runs/again",
)
assert 0 <= again.metrics["val"]["first"] <= 1 and again.history[-1]["step"] <= 2
"""
    short = "epochs=1, max_len=32, batching=jaxft.Pad(buckets=(32,)),"
    program = "".join(blocks).replace("data=frame,", "data=frame[:64],").replace("epochs=1,", short) + more
    (checkout / "page.py").write_text(program)
    accuracy, records, report = run("python -m page", checkout).split()
    assert 0 <= float(accuracy) <= 1 and int(records) > 1 and report == "runs/from-python/report.html"
    assert (checkout / "runs/from-python-exported/config.json").exists()


def csv_rows(path: Path) -> list[dict]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def test_the_configuration_that_the_readme_shows(tmp_path):
    from jaxft.cli.command import CONFIG, parse

    block = next(block for block in re.findall(r"```python\n(.*?)```", TEXT, re.S) if "get_config" in block)
    (tmp_path / "shown.py").write_text(block)
    cfg = parse([f"--config={tmp_path / 'shown.py'}"], CONFIG).config
    assert cfg.tune.last_layers == 4 and cfg.batching.length == 512
