"""Configurations survive JSON, and everything wrong in one is reported at once."""

import dataclasses
import json
import os
import subprocess
import sys

import pytest

from jaxft.config import Config, Eval, Mesh, Save, load_config, save_config
from jaxft.config.component import config, from_json, to_json, type_problems, walk
from jaxft.config.ranges import Range
from jaxft.optim.adamw import AdamW
from jaxft.optim.schedule import Linear
from jaxft.problems import UserError, suggest
from jaxft.tune.full import Full


@config
class Rows:
    buckets: tuple[int, ...] = (32, 64)

    def problems(self):
        return ["buckets are empty"] if not self.buckets else []


@config
class Source:
    path: str
    limit: int | None = None

    def open(self):
        return []

    def problems(self):
        return [] if self.path == "there" else [f"{self.path} does not exist"]


@config
class Task:
    text: str = "text"
    words: list[str] = dataclasses.field(default_factory=list)

    def encode(self, rows):
        return rows


def make(**changes):
    parts = {"batching": Rows(), "tune": Full(), "optim": AdamW(), "schedule": Linear()}
    plain = {"model": "org/name", "task": Task(), "data": Source(path="there"), "lr": 1e-3, "batch": 8, "steps": 10}
    return Config(**(parts | plain | changes))


def problems(devices=None, **changes):
    return make(**changes).problems(devices)


def test_a_good_configuration_has_no_problem():
    evals = {"val": Eval(data=Source(path="there"), every=5)}
    assert problems(8, evals=evals, save=Save(best="val/accuracy")) == []
    make().validate()


def test_the_default_components_have_no_problem():
    cfg = Config(model="org/name", task=Task(), data=Source(path="there"), lr=1e-3, batch=8, epochs=3)
    assert cfg.problems(1) == []
    assert from_json(to_json(cfg)) == cfg


def test_json_gives_the_same_object_back(tmp_path):
    cfg = make(
        evals={"val": Eval(data=Source(path="there", limit=3))},
        lr_multipliers=(("embed", 0.5), ("head", 10)),
        task=Task(words=["a"]),
        batching=Rows(buckets=(8, 16)),
    )
    save_config(cfg, tmp_path / "config.json")
    assert load_config(tmp_path / "config.json") == cfg
    written = json.loads((tmp_path / "config.json").read_text())
    assert written["class"] == "jaxft.config.run:Config"
    assert written["optim"] == {"class": "jaxft.optim.adamw:AdamW"} | dataclasses.asdict(AdamW())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["config.json"]


@pytest.mark.parametrize(
    "change, message",
    [
        ({"class": "jaxft.config.run:Confg"}, "Did you mean 'Config'?"),
        ({"class": "not_a_module:Config"}, "--allow-import=not_a_module"),
        ({"class": "antigravity:Config"}, "--allow-import=antigravity"),
        ({"class": "jaxft.os:system"}, "No module named 'jaxft.os'"),
        ({"class": "jaxft.config.run:os.system"}, "not a config class"),
        ({"class": "jaxft.config.run:checks.is_config"}, "not a config class"),
        ({"class": "jaxft.config.run:UserError"}, "not a config class"),
        ({"class": "jaxft.config.run:math"}, "not a config class"),
        ({"class": "os:system"}, "not a config class"),
        ({"class": "jaxft.training.setup:Setup"}, "not a config class"),  # a dataclass, but no part of a configuration
        ({"class": "jaxft.optim:adamw.AdamW"}, "not a config class"),
        ({"class": "jaxft.config.run:Config.problems"}, "not a config class"),
        ({"class": ["jaxft.config.run:Config"]}, "expected 'MODULE:CLASS'"),
        ({"class": "a b:Config"}, "expected 'MODULE:NAME'"),
        ({"class": 3}, "expected 'MODULE:CLASS'"),
        ({"task": {"class": "payload:Task"}}, "--allow-import=payload"),
        ({"steps": "many"}, "config.steps is 'many' (str), expected int | None"),
        ({"evals": [1]}, "config.evals is"),
        ({"class": "jaxft.config.run:Mesh"}, "has no field 'model'"),
        ({"stpes": 3}, "Did you mean 'steps'?"),
    ],
)
def test_json_of_another_version_names_what_it_does_not_know(tmp_path, change, message):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_json(make()) | change))
    with pytest.raises(UserError, match="config.json: ") as error:
        load_config(path)
    assert message in str(error.value)


def test_files_that_are_no_configuration(tmp_path):
    files = {
        "bad": ("{", "is not JSON"),
        "empty": ("", "is not JSON"),
        "mesh": (json.dumps(to_json(Mesh())), "does not hold"),
        "list": ("[]", "does not hold"),
        "null": ("null", "does not hold"),
        "number": ("1" * 5000, "is not JSON"),
        "infinite": ('{"lr": 1e999}', "is not JSON"),
        "deep": ("[" * 100_000, "is not JSON: nested too deeply"),
        "deeper": ("[" * 900 + "]" * 900, "nested too deeply"),  # which the reader of JSON still takes
        "bytes": (b"\xff\xfe{", "is not JSON"),
    }
    for name, (content, message) in files.items():
        (tmp_path / f"{name}.json").write_bytes(content if isinstance(content, bytes) else content.encode())
        with pytest.raises(UserError, match=f"{name}.json.*{message}"):
            load_config(tmp_path / f"{name}.json")
    with pytest.raises(UserError, match="gone.json.*No such file"):
        load_config(tmp_path / "gone.json")


def test_constructors_name_every_unknown_and_missing_field():
    with pytest.raises(UserError) as error:
        Source(pth="x", limt=2)
    assert "has no field 'pth'. Did you mean 'path'?" in str(error.value)
    assert "has no field 'limt'. Did you mean 'limit'?" in str(error.value)
    assert "needs a value for 'path'" in str(error.value)
    with pytest.raises(UserError, match="takes its fields by name: path=..., limit=..."):
        Source("x")


def test_values_of_a_wrong_type():
    cfg = make(lr="abc", seed=True, optim=AdamW(decay="x"), evals={"val": Eval(data=Source(path="there"), every=1.5)})
    assert type_problems(cfg) == [
        "config.evals.val.every is 1.5 (float), expected int | None",
        "config.optim.decay is 'x' (str), expected float",
        "config.lr is 'abc' (str), expected float | 'auto'",
        "config.seed is True (bool), expected int",
    ]
    assert type_problems(make(lr=1, epochs=None, lr_multipliers=(("a", 1),))) == []
    assert "expected tuple[tuple[str, float], ...]" in type_problems(make(lr_multipliers=("a", 1)))[0]
    assert set(type_problems(cfg)) <= set(cfg.problems())  # and nothing raises while comparing such values


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"steps": None}, "config.steps and config.epochs are both None. Set one of them."),
        ({"epochs": 2.0}, "config.steps is 10 and config.epochs is 2.0. Set one of them to None, such as"),
        ({"lr": 0.0}, "config.lr is 0.0, expected more than 0"),
        ({"lr": float("nan")}, "config.lr is nan, expected a finite number, more than 0"),
        ({"steps": 0}, "config.steps is 0, expected 1 or more, or None"),
        ({"dropout": 1.0}, "config.dropout is 1.0, expected 0 or more and less than 1"),
        ({"clip": 0.0}, "config.clip is 0.0, expected more than 0, or None"),
        ({"seed": -1}, "config.seed is -1, expected from 0 to 4294967295"),
        ({"log_every": 0}, "config.log_every is 0, expected 1 or more"),
        ({"save": Save(keep=0)}, "config.save: keep is 0, expected 1 or more"),
        ({"remat": "dot"}, "config.remat is 'dot', expected none, dots, full. Did you mean 'dots'?"),
        ({"dtype": "BFloat16"}, "expected auto, float32, bfloat16. Did you mean 'bfloat16'?"),
        ({"batch": 10, "micro_batches": 4}, "is 10, which 4 micro-batches do not divide. Nearest that fit: 8 or 12."),
        ({"save": Save(best="test/f1")}, "no eval is named 'test'. There are no evals."),
        ({"save": Save(best="f1")}, "config.save: best is 'f1', expected 'EVAL/METRIC'"),
        ({"lr_multipliers": (("(a", 1.0),)}, "config.lr_multipliers: '(a' is not a regular expression"),
        ({"lr_multipliers": (("a", -1.0),)}, "config.lr_multipliers holds -1.0, expected 0 or more"),
        ({"batching": Rows(buckets=())}, "config.batching: buckets are empty"),
        ({"data": "sst2"}, "config.data is 'sst2', expected a source such as"),
        ({"data": Source(path="gone")}, "config.data: gone does not exist"),
        ({"evals": {"val": Eval(data=Source(path="gone"))}}, "config.evals.val.data: gone does not exist"),
        ({"evals": {"val": Eval(data=Source(path="there"), batch=0)}}, "config.evals.val: batch is 0"),
        ({"evals": {"a/b": Eval(data=Source(path="there"))}}, "config.evals has the name 'a/b'"),
        ({"task": Task(text=print)}, "config.task.text is <built-in function print>"),
        ({"model": "a b"}, "neither a directory nor a hub name"),
        ({"mesh": Mesh(data=0)}, "config.mesh: data is 0, expected 1 or more, or -1"),
    ],
)
def test_one_problem(changes, message):
    assert any(message in text for text in problems(**changes)), problems(**changes)


def test_all_problems_are_raised_together():
    with pytest.raises(UserError) as error:
        make(lr=-1.0, batch=0, remat="all", optim=None).validate()
    assert str(error.value).startswith("4 problems:\n- config.lr is -1.0")


def test_the_best_checkpoint_needs_an_evaluation_at_its_step():
    evals = {"val": Eval(data=Source(path="there"), every=200)}
    found = problems(evals=evals, save=Save(best="val/f1", every=300))
    assert len(found) == 1 and "such as 400" in found[0]
    assert "Did you mean 'val'? The evals are: val." in problems(evals=evals, save=Save(best="vall/f1"))[0]


def test_how_often():
    data = Source(path="there")
    cfg = make(batch=8, micro_batches=2, evals={"val": Eval(data=data, every=7), "test": Eval(data=data, batch=3)})
    assert (cfg.save_interval(100), cfg.save_interval(5)) == (10, 1)
    assert (cfg.eval_interval("val", 100), cfg.eval_interval("test", 100)) == (7, 10)
    assert (cfg.eval_batch("val"), cfg.eval_batch("test")) == (4, 3)
    cfg.save.best = "val/loss"
    assert cfg.save_interval(100) == 7
    cfg.save.every = 14
    assert (cfg.save_interval(100), cfg.eval_interval("test", 100)) == (14, 14)


@pytest.mark.parametrize(
    "mesh, devices, sizes",
    [
        (Mesh(), 8, (8, 1, 1)),
        (Mesh(fsdp=2, tensor=2), 8, (2, 2, 2)),
        (Mesh(data=1, fsdp=-1), 8, (1, 8, 1)),
        (Mesh(data=2), 8, (2, 4, 1)),
        (Mesh(data=2, tensor=-1), 8, (2, 1, 4)),
        (Mesh(data=2, fsdp=1, tensor=1), 2, (2, 1, 1)),
    ],
)
def test_mesh_sizes(mesh, devices, sizes):
    assert tuple(mesh.sizes(devices).values()) == sizes


def test_sizes_that_memory_decides():
    assert Mesh().open and Mesh(tensor=2).open and not Mesh(data=2).open and not Mesh(fsdp=1).open
    assert tuple(Mesh(tensor=2).sizes(8, fsdp=4).values()) == (1, 4, 2)


def test_meshes_that_do_not_fit():
    assert "does not fit 8 devices" in problems(8, mesh=Mesh(tensor=3))[0]
    assert "product is 8" in problems(8, mesh=Mesh(data=2, fsdp=2))[0]
    assert "only one of them" in problems(8, mesh=Mesh(fsdp=-1))[0]
    with pytest.raises(UserError, match="does not fit 6 devices"):
        Mesh(data=4).sizes(6)


def test_batches_that_the_devices_cannot_share():
    assert problems(8, batch=30, micro_batches=2) == [
        "config.batch is 30, which 8 shards (mesh data 8 * fsdp 1) * 2 micro-batches do not divide. "
        "Nearest that fit: 16 or 32."
    ]
    assert problems(8, batch=4, mesh=Mesh(tensor=4)) == []
    assert "Nearest that fit: 8." in problems(8, batch=4)[0]


def test_model_directories(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("bert-tiny", "run/model"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text("{}")
    assert problems(model="bert-tiny") == problems(model=str(tmp_path / "bert-tiny")) == []
    assert "does not exist. Near it: bert-tiny." in problems(model="./bert-tny")[0]
    assert "has no config.json" in problems(model=str(tmp_path))[0]
    assert "Did you mean 'run/model'?" in problems(model="run")[0]
    assert problems(model="google-bert/bert-base-uncased") == []


def test_walk_reaches_every_leaf():
    cfg = make(evals={"val": Eval(data=Source(path="there"))})
    leaves = {name: value for name, _, value in walk(cfg)}
    assert leaves["evals.val.data.path"] == "there"
    assert leaves["optim.decay"] == AdamW().decay
    assert leaves["mesh.data"] == -1


def test_names_are_suggested_across_case_and_dashes():
    assert suggest("num-epochs", ["num_epochs", "steps"]) == " Did you mean 'num_epochs'?"
    assert suggest("Adamw", ["AdamW"]) == " Did you mean 'AdamW'?"
    assert suggest("zzz", ["AdamW"]) == ""


def test_values_that_json_cannot_hold_are_refused():
    with pytest.raises(UserError, match="cannot be written as JSON"):
        to_json(Task(text=print))
    assert from_json({"a": [1, [2]]}) == {"a": (1, (2,))}


def test_reading_configurations_does_not_need_jax():
    code = "import sys, jaxft.cli.command, jaxft.config.run; sys.exit(any(m in sys.modules for m in ('jax', 'numpy')))"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=env).returncode == 0


@pytest.mark.parametrize("value", [10**400, -(10**400), float("nan"), float("inf")])
def test_numbers_beyond_floats_are_not_finite(value):
    assert Range().problem(value).startswith("a finite number")
