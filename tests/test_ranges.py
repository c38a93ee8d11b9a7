"""Every number of every component has a range, which is checked before anything is computed."""

import dataclasses
import importlib
import math
import pkgutil
import subprocess
import sys
from dataclasses import replace

import pytest

import jaxft
from jaxft.cli import command
from jaxft.config import Config, Eval, Mesh, Save
from jaxft.config.component import is_config
from jaxft.config.ranges import INT, Range, hints, problems_of, range_problems, undeclared
from jaxft.data import Augmented, Chunk, Data, Pack, Pad
from jaxft.optim.adafactor import Adafactor
from jaxft.optim.adamw import AdamW
from jaxft.optim.lion import Lion
from jaxft.optim.muon import Muon
from jaxft.optim.schedule import WSD, Cosine, Linear
from jaxft.optim.sgd import SGD
from jaxft.problems import UserError
from jaxft.tasks.classify import Classify
from jaxft.tasks.mlm import MaskedLM
from jaxft.tasks.pretrain import NextSentence
from jaxft.tune.partial import Partial


def modules():
    """All modules of the package that can be imported without starting a command or PyTorch."""
    for one in pkgutil.walk_packages(jaxft.__path__, "jaxft."):
        if one.name not in ("jaxft.benchmark.trainer", "jaxft.parity_check.reference", "jaxft.explain"):
            yield importlib.import_module(one.name)


CLASSES = sorted(
    {
        value
        for module in modules()
        for value in vars(module).values()
        if dataclasses.is_dataclass(value)
        and value.__module__ == module.__name__
        and hasattr(value.__init__, "__wrapped__")  # as `config` makes them
    },
    key=lambda cls: cls.__qualname__,
)


def test_components_are_found():
    assert {Config, Save, Eval, Mesh, AdamW, Linear, Pad, Data, Classify, Partial} < set(CLASSES) and len(CLASSES) > 40


@pytest.mark.parametrize("cls", CLASSES, ids=lambda cls: cls.__qualname__)
def test_every_number_has_a_range(cls):
    """With `Finite` where any number is right."""
    missing = [name for name, hint in hints(cls).items() if undeclared(hint)]
    assert not missing, f"declare a range of jaxft/config/ranges.py for {', '.join(missing)} of {cls.__qualname__}"
    floats = [name for name, hint in hints(cls).items() if "float" in str(hint)]
    needed = {f.name: None for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING}
    assert not range_problems(cls(**needed))  # the defaults are in their ranges
    for name in floats:
        for value in (math.nan, math.inf, -math.inf):
            held = (value,) if "tuple" in str(hints(cls)[name]) else value
            held = (
                (("a", value),)
                if name == "lr_multipliers"
                else {"a": value}
                if "dict" in str(hints(cls)[name])
                else held
            )
            found = range_problems(cls(**needed | {name: held}))
            assert len(found) == 1 and found[0].startswith(f"{name} ") and "expected a finite number" in found[0]


@pytest.mark.parametrize(
    ("component", "message"),
    [
        (AdamW(b1=1), "b1 is 1, expected 0 or more and less than 1"),
        (AdamW(b2=2.0), "b2 is 2.0, expected 0 or more and less than 1"),
        (AdamW(eps=-1), "eps is -1, expected 1.17549435082e-38 or more"),
        (AdamW(decay=math.inf), "decay is inf, expected a finite number, 0 or more"),
        (Lion(b2=-0.1), "b2 is -0.1, expected 0 or more and less than 1"),
        (SGD(momentum=1.0), "momentum is 1.0, expected 0 or more and less than 1"),
        (Muon(rms=0.0), "rms is 0.0, expected more than 0"),
        (Adafactor(min_dim_factored=0), "min_dim_factored is 0, expected 1 or more"),
        (Linear(end=-0.5), "end is -0.5, expected from 0 to 1"),
        (Cosine(warmup=-1), "warmup is -1, expected 0 or more"),
        (WSD(decay=math.nan), "decay is nan, expected a finite number, 0 or more"),
        (Pack(length=4294967295), f"length is 4294967295, expected at most {INT}"),
        (Chunk(length=0), "length is 0, expected 1 or more"),
        (Pad(buckets=(0, 8)), "buckets holds 0, expected 1 or more"),
        (Data(path="x", limit=0), "limit is 0, expected 1 or more, or None"),
        (Augmented(data=Data(path="x", limit=-1)), "data: limit is -1, expected 1 or more, or None"),
        (Partial(last_layers=-1), "last_layers is -1, expected 1 or more, or None"),
        (Classify(class_weights=(1.0, -2.0)), "class_weights holds -2.0, expected 0 or more, or None"),
        (NextSentence(masked=MaskedLM(rate=2.0)), "masked: rate is 2.0, expected more than 0 and less than 1"),
        (Save(every=0, keep=2**31), f"keep is {2**31}, expected at most {INT}"),
        (Mesh(data=-2), "data is -2, expected 1 or more, or -1"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_refused(component, message):
    assert message in problems_of(component)


def test_one_message_for_a_run(tiny_bert, tmp_path):
    (tmp_path / "rows.jsonl").write_text('{"text": "a", "label": "x"}\n')
    data = Data(path=str(tmp_path / "rows.jsonl"))
    cfg = Config(
        model=str(tiny_bert),
        task=Classify(focal=-1.0),
        data=replace(data, limit=0),
        lr=math.nan,
        batch=0,
        steps=2,
        evals={"val": Eval(data=data, every=-1)},
        optim=AdamW(b1=1),
        schedule=Linear(end=-0.5),
        batching=Pack(length=2**32),
        lr_multipliers=((".*", -1.0),),
        save=Save(keep=0),
        layer_decay=2.0,
    )
    with pytest.raises(UserError) as error:
        cfg.validate()
    for name in (
        "config.lr is nan",
        "config.batch is 0",
        "config.lr_multipliers holds -1.0",
        "config.layer_decay is 2.0",
        "config.task: focal",
        "config.data: limit",
        "config.evals.val: every",
        "config.optim: b1 is 1",
        "config.schedule: end",
        "config.batching: length",
        "config.save: keep",
    ):
        assert sum(problem.startswith(name) for problem in error.value.problems) == 1, name


def test_ranges_in_words():
    assert str(Range(0.0, 1.0)) == "from 0 to 1" and str(Range()) == ""
    assert Range(0.0, 1.0, ("low",)).problem(1.0) is None and Range(0.0, 1.0, ("low",)).problem(0.0) is not None
    assert not any(map(is_config, (Range(), Data)))


FLAGS = [
    ("predict", "--model=m --input=i --output=o --batch=0", "--batch=0: expected 1 or more"),
    ("explain", "--model=m --input=i --output=o --limit=-1 --steps=0", "--limit=-1: expected 1 or more"),
    ("evaluate", "--workdir=w --bootstrap=-5", "--bootstrap=-5: expected 1 or more"),
    ("evaluate", f"--workdir=w --step={2**31}", f"--step={2**31}: expected at most {INT}"),
]


@pytest.mark.parametrize(("name", "flags", "message"), FLAGS)
def test_numbers_of_the_command_line(name, flags, message):
    run = [sys.executable, "-m", f"jaxft.{name}", *flags.split()]
    found = subprocess.run(run, capture_output=True, text=True)
    assert found.returncode == 2 and message in found.stderr


def test_every_flags_number_has_a_range():
    for module in modules():
        flags = [value for value in vars(module).values() if isinstance(value, command.Flag)]
        assert not [flag.name for flag in flags if undeclared(flag.type)]
