"""`--config=FILE --help` lists every field with its type, value, default and documentation."""

import dataclasses
import importlib
import re
import subprocess
import sys

import pytest

from jaxft.cli.field_help import COLUMNS, field_help
from jaxft.config import Config, Eval, Mesh, Save
from jaxft.config.component import walk
from jaxft.config.config_dict import MODULE_OF
from jaxft.config.field_docs import field_docs
from jaxft.config.file import load
from jaxft.tasks.classify import Classify
from jaxft.tasks.multiple_choice import MultipleChoice
from jaxft.tasks.pretrain import SentenceOrder

CLASSES = [getattr(importlib.import_module(module), name) for name, module in MODULE_OF.items()]


@pytest.mark.parametrize("cls", [Config, Eval, Mesh, Save, *CLASSES])
def test_every_field_is_documented(cls):
    assert [field.name for field in dataclasses.fields(cls) if field.name not in field_docs(cls)] == []


def test_documentation_is_the_comment_of_the_field():
    assert field_docs(Config)["model"] == "Hugging Face directory, or hub name"
    assert field_docs(Classify)["class_weights"].startswith('One per class, or "balanced": rows / (classes')  # above it
    assert field_docs(MultipleChoice)["label"].endswith("its number, or its letter from A.")  # two lines
    assert field_docs(MultipleChoice)["first"].startswith("number of the first choice")  # inside brackets
    assert field_docs(SentenceOrder)["masked"] == "how words are masked"  # inherited
    made = dataclasses.make_dataclass("Made", [("a", int)])
    assert field_docs(made) == {}


FILE = '''
import dataclasses
from jaxft.config import Config, Eval
from jaxft.config.component import config
from jaxft.data import Data
from jaxft.tasks.classify import Classify

@config
class Mine(Classify):
    """A task of my own."""

    weights: list[float] = dataclasses.field(default_factory=lambda: [1.0])  # one for each moon
    moons: dict[str, int] = dataclasses.field(default_factory=dict)
    # not of a field

def get_config():
    data = Data(path="there.csv")
    return Config(model="org/name", task=Mine(text="review"), data=data, evals={"val": Eval(data=data, every=5)},
                  lr=1e-3, batch=8, steps=10)
'''


def test_the_fields_of_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(FILE)
    cfg = load("mine.py")
    text = field_help(cfg)
    for name, _, value in walk(cfg):
        pattern = rf"^  {re.escape(name)}: .* = {re.escape(repr(value))}( |$)"
        assert re.search(pattern, text, re.M), name
    lines = text.splitlines()
    assert max(map(len, lines)) <= COLUMNS
    flat = " ".join(text.split())
    assert "task = Mine A task of my own. others: Classify, MultiLabel," in flat
    assert "task.weights: list[float] = [1.0] one for each moon task.moons: dict[str, int] = {} data = Data" in flat
    assert "task.text: str = 'review' column, or a template of columns such as" in flat
    assert "{sentence}\"; default: 'text'" in flat
    assert (
        "lr: float | 'auto' = 0.001 peak learning rate; auto: that of config.tune for a model of this size; more than 0"
        in flat
    )  # which has no default
    assert "dtype: str = 'auto' of the computation; trained weights are float32." in flat
    assert "one of auto, float32, bfloat16" in flat
    assert "optim = AdamW Adam with decoupled weight decay. others: Adafactor, AdamW8bit, Lion, Muon, SGD" in flat
    assert "evals.NAME.data=FILE adds an evaluation set; there are: val" in flat
    assert (
        flat.count("of csv and tsv; None: as the first rows show, a comma or a tab if they do not") == 1
    )  # not again for the evaluation set
    sys.modules.pop("mine", None)


def ask(folder, *words) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", *words], cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.mark.parametrize("command", ["jaxft.train", "jaxft.evaluate"])
def test_help_with_a_configuration(tmp_path, command):
    (tmp_path / "mine.py").write_text(FILE)
    done = ask(tmp_path, command, "--config=mine.py", "--help", "--config.optim=Lion", "--config.optim.b1=0.5")
    assert done.returncode == 0 and done.stdout.startswith(f"usage: python -m {command} ")
    assert re.search(r"^  optim\.b1: float = 0\.5 +weight of the momentum", done.stdout, re.M)
    assert "recipes for" not in done.stdout and "\n  model: str = 'org/name'" in done.stdout


def test_help_with_a_mistake_shows_both(tmp_path):
    (tmp_path / "mine.py").write_text(FILE)
    done = ask(tmp_path, "jaxft.train", "--config=mine.py", "--help", "--config.lrr=1")
    assert done.returncode == 2 and "\n  lr: float | 'auto' = 0.001" in done.stdout
    assert done.stderr.startswith("error: --config.lrr=1: Config has no field 'lrr'. Did you mean --config.lr?")
    done = ask(tmp_path, "jaxft.train", "--help")
    assert done.returncode == 0 and "--config=FILE --help also lists" in done.stdout and "quickstart" in done.stdout
