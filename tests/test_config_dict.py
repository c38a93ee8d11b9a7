"""Configurations as `ml_collections.ConfigDict`: what one says is what the Config says, and every mistake is listed."""

import importlib
import pkgutil
from pathlib import Path

import pytest
from ml_collections import ConfigDict, FieldReference, FrozenConfigDict
from ml_collections.config_dict import placeholder, required_placeholder

import jaxft
from jaxft.config import Config, Eval, Mesh, Save, from_config_dict, to_config_dict
from jaxft.config import file as config_file
from jaxft.config.component import _CLASSES
from jaxft.config.config_dict import COMPONENTS, MODULE_OF
from jaxft.data import Data, Pack
from jaxft.data.duplicates import Deduplicated
from jaxft.data.tfds import TFDS
from jaxft.optim.lion import Lion
from jaxft.optim.schedule import Cosine
from jaxft.problems import UserError
from jaxft.tasks.classify import Classify
from jaxft.tune.partial import Partial

ROOMS = ("data", "tasks", "tune", "adapters", "quantization", "optim")
FULL = Config(
    model="m",
    task=Classify(pair="b", labels=("x", "y")),
    data=Deduplicated(data=Data(path="a.csv", name="sub"), against=TFDS(name="glue/cola", split="train")),
    evals={"val": Eval(data=Data(path="b.csv"), every=5), "test": Eval(data=Data(path="c.csv"))},
    batching=Pack(length=64),
    tune=Partial(last_layers=2, freeze=("embed",)),
    optim=Lion(decay=0.2),
    schedule=Cosine(),
    lr=1e-3,
    batch=8,
    epochs=2.0,
    lr_multipliers=(("head", 2.0),),
    mesh=Mesh(data=2),
    save=Save(best="val/accuracy"),
)


def problems(values: dict) -> list[str]:
    with pytest.raises(UserError) as error:
        from_config_dict(ConfigDict(values))
    return error.value.problems


def small(**more) -> dict:
    data = {"class": "Data", "path": "a.csv"}
    return {"model": "m", "task": {"name": "Classify"}, "data": data, "lr": 1e-3, "batch": 8, "steps": 3} | more


def test_there_and_back():
    there = to_config_dict(FULL)
    assert isinstance(there, ConfigDict) and from_config_dict(there) == FULL
    assert there.data.data["class"] == "Data" and there.data.data.name == "sub" and there.task.name == "Classify"
    assert there.mesh.data == 2 and "name" not in there.mesh and "name" not in there.evals.val
    assert from_config_dict(FrozenConfigDict(there)) == FULL
    assert from_config_dict(there.lock()) == FULL
    assert "lr: 0.001" in there.to_yaml()


def test_lists_are_tuples():
    made = from_config_dict(
        ConfigDict(small(task={"name": "Classify", "labels": ["x", "y"]}, lr_multipliers=[["h", 2]]))
    )
    assert made.task.labels == ("x", "y") and made.lr_multipliers == (("h", 2),)


def test_placeholders_and_references():
    values = ConfigDict(small())
    values.clip, values.wandb = placeholder(float), placeholder(str)
    width = FieldReference(4)
    values.batch, values.log_every = width * 2, width
    made = from_config_dict(values)
    assert (made.clip, made.wandb, made.batch, made.log_every) == (None, None, 8, 4)
    width.set(5)
    assert from_config_dict(values).batch == 10
    values.max_len = required_placeholder(int)
    values.task.pair = required_placeholder(str)
    values.evals = ConfigDict()
    values.evals.val, values.data["class"] = required_placeholder(ConfigDict), required_placeholder(str)
    assert sorted(problems(values)) == [
        "config.data.class is a required placeholder that was not set",
        "config.evals.val is a required placeholder that was not set",
        "config.max_len is a required placeholder that was not set",
        "config.task.pair is a required placeholder that was not set",
    ]


def test_every_mistake_at_once():
    values = small(
        stpes=3,
        batch="many",
        task={"name": "Clasify"},
        data={"class": "Data", "pth": "a.csv"},
        optim={"decay": 0.1},
        evals={"val": {"every": 5}, "test": 3},
        mesh={"dta": 1},
        schedule={"name": "os:path"},
    )
    del values["lr"]
    assert set(problems(values)) == {
        "config.batch is 'many' (str), expected int",
        "config.data.pth is not a field of Data. Did you mean 'path'?",
        "config.data.path is missing: Data needs a value for it",
        "config.evals.test is 3 (int), expected Eval",
        "config.evals.val.data is missing: Eval needs a value for it",
        "config.mesh.dta is not a field of Mesh. Did you mean 'data'?",
        "config.optim.name is missing: expected the class of a component, such as 'Classify'",
        "the configuration names 'os:path', which is not a config class",
        "config.stpes is not a field of Config. Did you mean 'steps'?",
        "config.task.name is 'Clasify', which is not a component. Did you mean 'Classify'?",
        "config.lr is missing: Config needs a value for it",
    }


def test_every_component_has_its_name():
    rooms = [m.name for m in pkgutil.walk_packages(jaxft.__path__, "jaxft.") if m.name.split(".")[1] in ROOMS]
    made = [cls for name in rooms for cls in vars(importlib.import_module(name)).values() if isinstance(cls, type)]
    found = {cls.__name__: cls.__module__ for cls in made if cls in _CLASSES}
    assert {name: module for name, module in found.items() if module.split(".")[1] in ROOMS} == MODULE_OF | {
        "InMemory": "jaxft.data.memory"  # only jaxft.fit makes it
    }
    assert len(MODULE_OF) == sum(len(names.split()) for names in COMPONENTS.values())


def test_a_file_that_returns_one_is_the_quick_start():
    root = Path(__file__).parent.parent / "configs"
    cfg, wanted = (config_file.load(str(root / name)) for name in ("config_dict.py", "quickstart.py"))
    assert cfg == wanted
