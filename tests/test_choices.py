"""Components and evaluation sets by flags: `--config.optim=Lion`, `--config.evals.val.data=FILE`, in any order."""

import itertools

import pytest
from ml_collections import ConfigDict

from jaxft.adapters.lora import LoRA
from jaxft.adapters.oft import OFT
from jaxft.adapters.prefix_tuning import PrefixTuning
from jaxft.adapters.prompt_tuning import PromptTuning
from jaxft.config import Config, EarlyStopping, Eval, from_config_dict
from jaxft.config.choices import PLACES, names_of
from jaxft.config.config_dict import MODULE_OF
from jaxft.config.other_trainers import FIELDS
from jaxft.config.overrides import override
from jaxft.data import Data, Pack
from jaxft.data.augment import Augmented
from jaxft.data.duplicates import Deduplicated
from jaxft.optim.adamw import AdamW
from jaxft.optim.lion import Lion
from jaxft.optim.schedule import WSD
from jaxft.problems import UserError
from jaxft.tasks.classify import Classify, MultiLabel
from jaxft.tune.full import Full
from jaxft.tune.partial import Partial


def make(**changes) -> Config:
    plain = {"model": "org/name", "task": Classify(text="review"), "data": Data(path="there.csv"), "lr": 1e-3}
    return Config(**(plain | {"batch": 8, "steps": 10, "optim": AdamW(b2=0.98)} | changes))


def settings(line: str) -> list[tuple[str, str]]:
    return [tuple(word.split("=", 1)) for word in line.split()]


@pytest.mark.parametrize(
    "line, expected",
    [
        ("optim=Lion", {"optim": Lion()}),
        ("optim=AdamW", {"optim": AdamW()}),
        ("optim=Lion optim.decay=0.5 optim.b1=0.8", {"optim": Lion(decay=0.5, b1=0.8)}),
        ("tune=Partial tune.last_layers=2 schedule=WSD", {"tune": Partial(last_layers=2), "schedule": WSD()}),
        ("task=MultiLabel task.label=a,b", {"task": MultiLabel(label=("a", "b"))}),
        ("task=Classify", {"task": Classify()}),
        ("batching=Pack batching.length=512", {"batching": Pack(length=512)}),
        ("data=mine.csv", {"data": Data(path="mine.csv")}),
        ("data=mine.csv data.limit=3", {"data": Data(path="mine.csv", limit=3)}),
        ("data=Data data.path=mine.csv", {"data": Data(path="mine.csv")}),
        ("data=Deduplicated data.data=x.csv", {"data": Deduplicated(data=Data(path="x.csv"))}),
        (
            "data=Deduplicated data.data.path=x.csv data.against.path=y.csv data.against.limit=2",
            {"data": Deduplicated(data=Data(path="x.csv"), against=Data(path="y.csv", limit=2))},
        ),
        (
            "data=Augmented data.data=Deduplicated data.data.data=x.csv",
            {"data": Augmented(data=Deduplicated(data=Data(path="x.csv")))},
        ),
        ("evals.val.data=v.csv evals.val.every=50", {"evals": {"val": Eval(data=Data(path="v.csv"), every=50)}}),
        ("evals.a.data=v.csv evals.b.data=Data evals.b.data.path=w.csv evals.b.batch=4",
         {"evals": {"a": Eval(data=Data(path="v.csv")), "b": Eval(data=Data(path="w.csv"), batch=4)}}),
        ("tune=jaxft.tune.partial:Partial", {"tune": Partial()}),
        ("early_stopping.patience=2 early_stopping.metric=v/loss evals.v.data=v.csv",
         {"early_stopping": EarlyStopping(metric="v/loss", patience=2), "evals": {"v": Eval(data=Data(path="v.csv"))}}),
    ],
)  # fmt: skip  # a line for each order would hide what differs
def test_in_any_order(line, expected):
    for some in itertools.permutations(settings(line)):
        cfg = make()
        assert override(cfg, list(some)) == []
        assert cfg == make(**expected)
        assert cfg.problems() == []


def test_the_later_of_two_wins():
    cfg = make()
    assert override(cfg, settings("optim=SGD optim.decay=0.5 optim=Lion")) == []
    assert cfg.optim == Lion(decay=0.5)


def test_what_is_chosen_is_said(caplog):
    caplog.set_level("INFO", "jaxft")
    line = "optim=Lion optim.decay=0.5 evals.val.every=3 evals.val.data=v.csv data=Deduplicated data.data=x"
    assert override(make(), settings(line)) == []
    assert sorted(caplog.messages) == [
        "config.data: Deduplicated(data=Data(path='x')), in place of Data(path='there.csv')",
        "config.evals.val: Eval(data=Data(path='v.csv'), every=3), added",
        "config.optim: Lion(decay=0.5), in place of AdamW(b2=0.98)",
    ]


def test_all_problems_come_together():
    cfg = make(evals={"test": Eval(data=Data(path="t.csv"))})
    line = """batching=Pack optim.dcay=1 optim=Lion tune=Partail tune.last_layers=2 data=Deduplicated data.limit=3
    task.labl=x task=MultiLabel evals.tset.data.path=x evals.val.every=3 schedule=WSD schedule.warmup=none"""
    found = override(cfg, settings(line))
    expected = [
        "--config.optim.dcay=1: Lion has no field 'dcay'. Did you mean --config.optim.decay?",
        "--config.tune=Partail: expected DoRA, HiRA, IA3, LNTuning, LoHa, LoKr, LoRA, MiSS, OFT, OLoRA, PiSSA, "
        "PTuning, PrefixTuning, PromptTuning, Bitfit, Full, Partial, or MODULE:CLASS. Did you mean 'Partial'?",
        "--config.data.limit=3: Deduplicated has no field 'limit'.",
        "--config.task.labl=x: MultiLabel has no field 'labl'. Did you mean --config.task.label?",
        "config.evals has no entry 'tset'. Did you mean --config.evals.test.data.path? "
        "To add a set: --config.evals.tset.data=FILE.",
        "--config.evals.val.every=3: config.evals has no entry 'val'.",
        "--config.schedule.warmup=none: expected float",
        "--config.data.data=VALUE is needed: Deduplicated has no default for 'data'",
        "--config.batching.length=VALUE is needed: Pack has no default for 'length'",
    ]
    assert len(found) == len(expected)
    for text, part in zip(found, expected, strict=True):
        assert part in text
    assert cfg.problems() == []  # what could not be made is not in its place, so that the rest is checked


def test_a_required_field_with_a_wrong_value_is_one_problem():
    for line in ("batching=Pack batching.length=x", "batching.length=x batching=Pack"):
        assert override(make(), settings(line)) == ["--config.batching.length=x: expected int"]
    assert override(make(), settings("data=Deduplicated data.against.split=x data.data=y")) == [
        "--config.data.against.path=VALUE is needed: Data has no default for 'path'"
    ]


def test_every_component_has_a_kind():
    by_kind = {kind: names_of(kind) for kind in set(PLACES.values())}
    assert sorted(itertools.chain(*by_kind.values())) == sorted(MODULE_OF)
    assert set(by_kind["batching"]) == {"Pad", "Pack", "Chunk"} and "Data" in by_kind["data"]
    assert "Linear" in by_kind["schedule"] and "Linear" not in by_kind["optim"]


def test_names_of_other_trainers():
    """They lead to fields that exist, and are none themselves."""
    tunes = [LoRA(), OFT(), PromptTuning(), PrefixTuning()]
    for other, own in FIELDS.items():
        place, _, field = own.partition(".")
        tune = next(one for one in tunes if hasattr(one, field)) if place == "tune" and field else Full()
        holder = cfg = make(evals={"NAME": Eval(data=Data(path="t.csv"))}, tune=tune)
        for part in own.split("."):
            holder = holder[part] if isinstance(holder, dict) else getattr(holder, part)
        (text,) = override(cfg, [(other, "1")])
        assert f" Did you mean --config.{own}?" in text
    with pytest.raises(UserError, match="Config has no field 'learning_rate'. Did you mean 'lr'?"):
        make(learning_rate=1)
    with pytest.raises(UserError, match="AdamW has no field 'weight_decay'. Did you mean 'decay'?"):
        AdamW(weight_decay=1)
    with pytest.raises(UserError, match="config.num_train_epochs is not a field of Config. Did you mean 'epochs'?"):
        from_config_dict(ConfigDict({"num_train_epochs": 3}))


def test_an_optional_section_needs_its_fields():
    cfg = make()
    assert override(cfg, settings("early_stopping.patience=2")) == [
        "--config.early_stopping.metric=VALUE is needed: EarlyStopping has no default for 'metric'"
    ]
    assert cfg.early_stopping is None
