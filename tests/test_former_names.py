"""Runs and settings that an earlier version wrote, with names that classes and fields had then."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from ml_collections import ConfigDict

from jaxft.config import Config, Eval, Save, from_config_dict, load_config, to_config_dict
from jaxft.config.component import from_json, to_json
from jaxft.config.former_names import CLASSES, FIELDS, renamed
from jaxft.config.overrides import override
from jaxft.data import Data, Pack
from jaxft.inference.settings import read_inference
from jaxft.optim.adamw import AdamW
from jaxft.problems import UserError
from jaxft.tasks.question_answering import QuestionAnswering
from jaxft.training.best import Best
from jaxft.training.checkpoint import Checkpoints
from jaxft.training.fit import fit
from jaxft.training.former_parameters import FORMER, with_paths
from jaxft.training.step import TrainState
from jaxft.tune.partial import Partial

FORMER_RUN = Path(__file__).parent / "former_run"
CLOSE = 1e-5  # machines round differently; on one machine the numbers are the same to the last bit


@pytest.fixture
def former(tmp_path, monkeypatch, one_device):
    shutil.copytree(FORMER_RUN, tmp_path / "former")
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
    before = [json.loads(line) for line in (FORMER_RUN / "run" / "metrics.jsonl").read_text().splitlines()]
    expected = [json.loads(line) for line in (FORMER_RUN / "expected.jsonl").read_text().splitlines()]
    assert lines[: len(before)] == before and len(lines) == len(before) + len(expected) == 14
    for line, wanted in zip(lines[len(before) :], expected, strict=True):
        assert line["split"] == wanted.pop("split")
        assert {name: line[name] for name in wanted} == pytest.approx(wanted, rel=CLOSE)


def test_a_former_configuration_is_the_same_configuration(former):
    assert load_config(former / "config.json") == configured()


def test_another_setting_is_still_another_run(former):
    with pytest.raises(UserError, match=r"config.lr is 0.02, but .* holds a run with 0.01"):
        fit(configured(lr=2e-2), str(former))
    # The default of a new field is what the former version did: another value makes another run.
    with pytest.raises(UserError, match=r"config.data\.[a-z.]+ is .* holds a run with"):
        fit(replace(configured(), data=replace(configured().data, encoding="latin-1")), str(former))


def test_former_settings_of_a_model():
    assert read_inference(FORMER_RUN / "jaxft.json").decoding.stride == 8


def test_a_checkpoint_with_former_paths_of_parameters(tmp_path):
    """Its arrays come back under the paths of today, in the parameters and in the optimizer's state."""
    paths = [
        "rel_bias.scores",
        "layers.segments.0.0.side_branch.kernel",
        "layers.segments.0.0.norms.side_branch_res.bias",
    ]
    params = {path: jnp.full(3, number) for number, path in enumerate([*paths, "embed.tokens.embedding"])}
    state = TrainState(jnp.array(6), jnp.array(0), params, optax.adam(0.1).init(params))
    former = with_paths(state, FORMER)
    assert {"distances.scores", "layers.segments.0.0.beside.kernel"} < former.params.keys() & former.opt[0].mu.keys()
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
    checkpoints = Checkpoints(tmp_path, 2, Best())
    for step, saved in ((1, former), (2, state)):
        checkpoints.save(step, saved, {}, {})
        checkpoints.wait()
        restored, _ = checkpoints.restore(step, abstract)
        jax.tree.map(np.testing.assert_array_equal, restored, state)
    checkpoints.close()


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


def test_messages_for_former_fields_name_the_present_ones(tmp_path):
    data = Data(path="rows.jsonl")
    with pytest.raises(UserError, match="Config has no field 'rows': it is now called 'batching'"):
        Config(model="model", task=QuestionAnswering(), data=data, rows=Pack(length=32), steps=1, lr=1.0, batch=1)
    cfg = configured()
    assert override(cfg, [("rows.length", "16")]) == [
        "--config.rows.length=16: the field is now called 'batching': use --config.batching"
    ]
    values = to_config_dict(cfg).to_dict()
    values["rows"] = values.pop("batching")
    with pytest.raises(UserError, match="config.rows is not a field of Config. It is now called 'batching'."):
        from_config_dict(ConfigDict(values))
