"""Runs and settings that an earlier version wrote, with names that classes and fields had then."""

import json
import shutil
from pathlib import Path

import pytest

from jaxft.config import Config, Eval, Save, load_config
from jaxft.config.component import from_json, to_json
from jaxft.config.former_names import CLASSES, FIELDS, renamed
from jaxft.data import Data, Pack
from jaxft.inference.settings import read_inference
from jaxft.optim.adamw import AdamW
from jaxft.problems import UserError
from jaxft.tasks.question_answering import QuestionAnswering
from jaxft.training.fit import fit
from jaxft.tune.partial import Partial

FORMER = Path(__file__).parent / "former_run"
CLOSE = 1e-5  # machines round differently; on one machine the numbers are the same to the last bit


@pytest.fixture
def former(tmp_path, monkeypatch, one_device):
    shutil.copytree(FORMER, tmp_path / "former")
    monkeypatch.chdir(tmp_path / "former")
    return tmp_path / "former" / "run"


def configured(**more) -> Config:
    data = Data(path="rows.jsonl")
    values = {"steps": 12, "lr": 1e-2, "batch": 8, "max_len": 32, "log_every": 1} | more
    return Config(
        model="model",
        task=QuestionAnswering(stride=8),
        data=data,
        evals={"val": Eval(data=data, every=6)},
        batching=Pack(length=32),
        optim=AdamW(),
        tune=Partial(last_layers=1),
        save=Save(every=6, keep=5),
        **values,
    )


def test_a_former_run_resumes_as_it_would_have(former):
    """Six steps more, with the optimizer's state, the data's order and the log of before."""
    fit(configured(), str(former))
    lines = [json.loads(line) for line in (former / "metrics.jsonl").read_text().splitlines()]
    before = [json.loads(line) for line in (FORMER / "run" / "metrics.jsonl").read_text().splitlines()]
    expected = [json.loads(line) for line in (FORMER / "expected.jsonl").read_text().splitlines()]
    assert lines[: len(before)] == before and len(lines) == len(before) + len(expected) == 14
    for line, wanted in zip(lines[len(before) :], expected, strict=True):
        assert line["split"] == wanted.pop("split")
        assert {name: line[name] for name in wanted} == pytest.approx(wanted, rel=CLOSE)


def test_a_former_configuration_is_the_same_configuration(former):
    assert load_config(former / "config.json") == configured()


def test_another_setting_is_still_another_run(former):
    with pytest.raises(UserError, match=r"config.lr is 0.02, but .* holds a run with 0.01"):
        fit(configured(lr=2e-2), str(former))


def test_former_settings_of_a_model():
    assert read_inference(FORMER / "jaxft.json").decoding.stride == 8


def test_every_former_name_has_one_of_today():
    for former, name in CLASSES.items():
        module, _, cls = name.partition(":")
        found = getattr(__import__(module, fromlist=[cls]), cls)
        assert f"{found.__module__}:{found.__qualname__}" == name and former not in CLASSES.values()
    for name, fields in FIELDS.items():
        module, _, cls = name.partition(":")
        known = getattr(__import__(module, fromlist=[cls]), cls).__dataclass_fields__
        assert set(fields.values()) <= set(known) and not set(fields) & set(known)


def test_names_of_today_stay():
    value = to_json(configured())
    assert renamed(value) == value and from_json(value) == configured()
    assert renamed([{"class": 3, "rows": 1}, "jaxft.config:Config"]) == [{"class": 3, "rows": 1}, "jaxft.config:Config"]
