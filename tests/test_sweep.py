"""Several runs in one command: what is spanned, drawn, promoted and folded, and what the trials give and cost."""

import json
import math
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
from runs import config_file, numbers

from jaxft import sweep
from jaxft.cli import command
from jaxft.data import Data, Fold
from jaxft.data.source import as_rows
from jaxft.host import strict_json
from jaxft.optim.adamw import AdamW
from jaxft.problems import RunStopped, UserError
from jaxft.sweeps import run as runner
from jaxft.sweeps.grid import Span, drawn, grid, size, spanned
from jaxft.sweeps.halving import promoted, rungs
from jaxft.sweeps.plan import Asked, named_points, plan_sweep
from jaxft.sweeps.results import failures, means
from jaxft.training.loop import train
from jaxft.training.saved_run import evaluate_run
from jaxft.training.shared import Shared

SHORT = (("epochs", "None"), ("steps", "6"))


@pytest.fixture
def spec(resumable, tmp_path) -> str:
    return str(config_file(resumable(), tmp_path))


def swept(spec, folder, *settings, shared=None, **flags):
    shared = shared or Shared()
    asked = Asked(spec, SHORT + settings, Path(folder), **flags)
    return runner.run(plan_sweep(asked, shared), shared)


def content(folder) -> dict:
    return strict_json.parse((Path(folder) / "sweep.json").read_bytes())


def values(folder, name) -> list[float]:
    """The last accuracy of a trial on `val`, from its own files."""
    lines = [line for line in numbers(Path(folder) / name) if line["split"] == "val"]
    return lines[-1]["accuracy"]


@pytest.mark.parametrize(
    ("setting", "wanted"),
    [
        (("lr", "1e-5,3e-5"), ("1e-5", "3e-5")),
        (("optim", "AdamW,Lion"), ("AdamW", "Lion")),
        (("clip", "1.0,None"), ("1.0", "None")),
        (("batching.buckets", "8,32"), None),
        (("batching.buckets", "(16,32);(32,)"), ("(16,32)", "(32,)")),
        (("task.labels", "a,b"), None),
        (("lr", "1e-5"), None),
    ],
)
def test_where_commas_separate_values(resumable, setting, wanted):
    axes, fixed, problems = spanned(resumable(), (setting,))
    assert problems == []
    assert (axes[0].values if axes else None) == wanted and fixed == (() if axes else (setting,))


def test_a_chosen_component_decides_what_its_fields_are(resumable):
    axes, fixed, problems = spanned(
        resumable(), (("tune.rank", "4,8"), ("tune", "LoRA"), ("tune.target_modules", "q,v"))
    )
    assert problems == [] and [axis.field for axis in axes] == ["tune.rank"]
    assert dict(fixed) == {"tune": "LoRA", "tune.target_modules": "q,v"}


def test_the_grid_is_the_product():
    axes = [Span("lr", ("1", "2")), Span("seed", ("3", "4", "5"))]
    assert size(axes) == 6 and list(grid(axes))[3] == (("lr", "2"), ("seed", "3"))
    assert len(set(grid(axes))) == 6
    assert list(named_points([(("a", "x/y"),), (("a", "x:y"),)])) == ["a=x_y", "a=x_y-2"]


def test_what_is_drawn_from_ranges(resumable):
    axes, _, problems = spanned(resumable(), (("lr", "1e-5..1e-3"), ("batch", "4..8"), ("dropout", "0..0.5")))
    assert problems == [] and size(axes) is None
    points = drawn(axes, 400)
    rates, batches, shares = (np.array([float(point[place][1]) for point in points]) for place in range(3))
    assert 1e-5 <= rates.min() and rates.max() <= 1e-3 and set(batches) == {4, 5, 6, 7, 8}
    assert np.log10(rates).mean() == pytest.approx(-4, abs=0.1) and shares.mean() == pytest.approx(0.25, abs=0.03)
    assert drawn(axes, 7) == points[:7] and len(set(points)) == 400
    assert sorted(drawn([Span("lr", ("1", "2", "3"))], 3)) == [(("lr", value),) for value in "123"]


def test_halving_by_hand():
    assert rungs(2) == [(2, 1)] and rungs(6) == [(6, 3), (2, 1)] and rungs(9) == [(9, 9), (3, 3), (1, 1)]
    assert rungs(28) == [(28, 27), (9, 9), (3, 3), (1, 1)]
    scores = {"a": 0.2, "b": 0.9, "c": math.nan, "d": 0.9, "e": None, "f": 0.5}
    assert promoted("abcdef", scores, 2, "max") == ["b", "d"]
    assert promoted("abcdef", scores, 1, "max") == ["b"]  # of equal ones the first
    assert promoted("abcdef", scores, 2, "min") == ["a", "f"]
    assert promoted("abcdef", scores, 5, "min") == ["a", "b", "c", "d", "f"]


@pytest.mark.parametrize("folds", [2, 5, 23])
def test_folds_hold_each_row_exactly_once(resumable, folds):
    source = resumable().data
    rows = as_rows(source.open(), "rows")
    texts = [row["text"] for row in rows]
    parts = [Fold(data=source, folds=folds, fold=i, held_out=True, seed=3).open() for i in range(folds)]
    held = [row["text"] for part in parts for row in part]
    assert sorted(held) == sorted(texts) and max(map(len, parts)) - min(map(len, parts)) <= 1
    for i, part in enumerate(parts):
        rest = Fold(data=source, folds=folds, fold=i, seed=3).open()
        assert Counter(row["text"] for row in rest) == Counter(texts) - Counter(row["text"] for row in part)
        assert part.columns == rows.columns and len(rest) == 23 - len(part)
    assert folds == 23 or list(parts[0]) != list(Fold(data=source, folds=folds, fold=0, held_out=True).open())


def test_what_is_no_fold(resumable):
    for fields, text in (
        ({"folds": 24, "fold": 0}, "23 rows for 24 folds"),
        ({"folds": 3, "fold": 3}, "less than folds"),
    ):
        with pytest.raises(UserError, match=text):
            Fold(data=resumable().data, **fields).open()


@pytest.fixture
def compiled():
    found: list = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **more: found.append(more.get("fun_name")) if "backend_compile" in event else None
    )
    yield found
    jax.monitoring.clear_event_listeners()


def test_mean_spread_and_one_compilation(spec, resumable, tmp_path, compiled):
    """Rates, weight decay and seeds differ; each program is compiled once, and a trial is what `fit` would make."""
    found = swept(spec, tmp_path / "s", ("lr", "1e-3,3e-3"), ("optim.decay", "0.0,0.1"), seeds=3)
    counts = Counter(compiled)
    assert [counts[f"jit({name})"] for name in ("batch_gradient", "update", "init_fn", "eval_step")] == [1, 1, 1, 1]
    saved = content(tmp_path / "s")
    assert saved["complete"] and saved["metric"] == "val/accuracy" and saved["better"] == "max"
    assert len(saved["points"]) == 4 and len(saved["trials"]) == 12
    for point in saved["points"]:
        scores = [values(tmp_path / "s", f"{point['name']}-seed={seed}") for seed in range(3)]
        assert point["mean"] == pytest.approx(np.mean(scores)) and point["trials"] == 3
        assert point["std"] == pytest.approx(np.std(scores, ddof=1))
    top = max(point["mean"] for point in saved["points"])
    assert saved["best"]["name"] == next(point["name"] for point in saved["points"] if point["mean"] == top)
    assert "--config.steps=6" in saved["best"]["command"] and means(found).keys() == found.parts.keys()
    cfg = resumable(optim=AdamW(decay=0.1), seed=2)
    cfg.lr, cfg.epochs, cfg.steps = 3e-3, None, 6
    train(cfg, tmp_path / "alone")
    trial = tmp_path / "s" / "lr=3e-3-optim.decay=0.1-seed=2"
    assert numbers(tmp_path / "alone") == numbers(trial)
    files = [folder / "model" / "model.safetensors" for folder in (tmp_path / "alone", trial)]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_cross_validation(spec, tmp_path):
    swept(spec, tmp_path / "s", folds=3)
    saved = content(tmp_path / "s")
    assert saved["metric"] == "fold/accuracy" and [trial["fold"] for trial in saved["trials"]] == [0, 1, 2]
    scores = [trial["metrics"]["fold"]["accuracy"] for trial in saved["trials"]]
    assert saved["points"][0]["mean"] == pytest.approx(np.mean(scores))
    assert saved["points"][0]["std"] == pytest.approx(np.std(scores, ddof=1))
    trial = saved["trials"][1]
    again = evaluate_run(str(tmp_path / "s" / trial["name"]), None)
    assert again["fold"].items() >= trial["metrics"]["fold"].items()


class Killed(BaseException):
    pass


def test_a_killed_sweep_goes_on(spec, resumable, tmp_path, monkeypatch):
    """Halving, killed in the middle of a trial of each rung: the same file, and no step is done twice."""
    settings = (("lr", "1e-3,3e-3,1e-2"),)
    swept(spec, tmp_path / "whole", *settings, search="halving")
    from jaxft.training import loop

    plain, done = loop.after_step, []

    def after_step(run):
        plain(run)
        done.append((run.workdir.name, run.done))
        if len(done) in (3, 8):  # in the second trial, and in the one that goes on
            run.checkpoints.wait()
            raise Killed

    monkeypatch.setattr(loop, "after_step", after_step)
    for _ in range(2):
        with pytest.raises(Killed):
            swept(spec, tmp_path / "killed", *settings, search="halving")
        assert not content(tmp_path / "killed")["complete"]
    swept(spec, tmp_path / "killed", *settings, search="halving")
    files = [tmp_path / name / "sweep.json" for name in ("killed", "whole")]
    assert files[0].read_bytes().replace(b"/killed/best", b"/whole/best") == files[1].read_bytes()
    saved = content(tmp_path / "whole")
    assert sorted(point["part"] for point in saved["points"]) == [1, 3, 3]
    best = saved["best"]["name"]
    steps = Counter(done)
    assert {name: max(step for other, step in steps if other == name) for name, _ in steps} == {
        point["name"]: 6 if point["name"] == best else 2 for point in saved["points"]
    }
    assert sum(steps.values()) <= 2 * 2 + 6 + 2  # a killed trial repeats what was after its last checkpoint
    swept(spec, tmp_path / "killed", *settings, search="halving")
    assert sum(steps.values()) == len(done)  # it is complete: nothing is trained
    # The one that went on is an unbroken run, with one evaluation more.
    cfg = resumable()
    cfg.lr, cfg.epochs, cfg.steps = float(best.removeprefix("lr=")), None, 6
    train(cfg, tmp_path / "alone")
    found = [line for line in numbers(tmp_path / "whole" / best) if (line["split"], line["step"]) != ("val", 2)]
    assert found == numbers(tmp_path / "alone")


def test_a_trial_that_fails_does_not_stop_the_others(spec, tmp_path):
    found = swept(spec, tmp_path / "s", ("lr", "1e30,3e-3"))
    saved = content(tmp_path / "s")
    assert [trial["state"] for trial in saved["trials"]] == ["failed", "complete"]
    assert "NaN or infinite" in saved["trials"][0]["reason"] and saved["points"][0]["mean"] is None
    assert saved["best"]["name"] == "lr=3e-3"
    with pytest.raises(RunStopped, match="1 of 2 trials failed") as error:
        failures(found)
    assert error.value.exit_code == 1
    page = (tmp_path / "s" / "sweep.html").read_text()
    assert "1 of 2 trials failed" in page and "lr%3D3e-3/report.html" in page
    assert "http://" not in page and "https://" not in page and "<script" not in page


def flags_of(*argv):
    names = "seeds folds trials".split()
    more = [command.Flag(name, "", type=int) for name in names] + [command.Flag("search", "", default="grid")]
    return command.parse(argv, command.CONFIG_SEVERAL, command.WORKDIR, *more, command.Flag("metric", ""))


def test_the_command_prints_json_lines(spec, tmp_path, capsys):
    shorter = [f"--config.{name}={text}" for name, text in SHORT]
    argv = [f"--config={spec}", f"--workdir={tmp_path / 's'}", "--config.lr=3e-3,1e-3", *shorter]
    sweep.main(flags_of(*argv, "--search=random", "--trials=2"))
    *points, best = map(json.loads, capsys.readouterr().out.splitlines())
    assert {point["point"] for point in points} == {"lr=1e-3", "lr=3e-3"}
    assert all(point["val/accuracy"] is not None and point["std"] is None for point in points)
    assert best["best"] in ("lr=1e-3", "lr=3e-3") and best["command"].startswith("python -m jaxft.train --config=")


WRONG = [
    ((("lrr", "1,2"),), {}, ["Config has no field 'lrr'"]),
    ((("lr", "1e-3,,2e-3"),), {}, ["--config.lr=1e-3,,2e-3: a value is empty"]),
    ((("lr", ","), ("lrr", "1")), {"metric": "vall/loss"}, ["a value is empty", "no field 'lrr'", "of the sets val"]),
    ((("lr", "1e-3,1e-3"),), {}, ["1e-3 is there twice"]),
    ((("lr", "1e-3..1e-4"),), {}, ["expected LOW..HIGH, two numbers"]),
    ((("lr", "1e-4..1e-3"),), {}, ["--config.lr is a range: draw from it with --search=random --trials=N"]),
    ((("lr", "-1,1e-3"), ("batch", "0,4")), {}, ["config.lr is -1.0", "config.batch is 0"]),
    ((), {"folds": 24, "metric": "fold/acuracy"}, ["config.data has only 23 rows", "gives no 'acuracy'. Did you mean"]),
    ((("evals.fold.data", "nowhere.csv"),), {"folds": 2}, ["a set named 'fold'", "no such file"]),
    ((), {"folds": 1}, ["one fold leaves no rows"]),
    ((), {"metric": "val/calibration"}, ["gives no 'calibration'"]),
    ((("lr", "1e-3,2e-3"),), {"seeds": 5000}, ["10,000 trials, and a sweep has at most 2,000"]),
    ((("lr", "1e-3,2e-3"),), {"search": "halving"}, ["needs 3 points or more, and there are 2"]),
    ((("lr", "1e-3,2e-3"),), {"search": "random"}, ["needs the number of points"]),
    ((("lr", "1e-3,2e-3"),), {"search": "random", "trials": 3}, ["the values span only 2 points"]),
    ((("seed", "1,2"),), {"seeds": 2}, ["both set the seed"]),
]


@pytest.mark.parametrize(("settings", "flags", "parts"), WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_is_said_before_the_first_trial(spec, tmp_path, monkeypatch, settings, flags, parts):
    monkeypatch.setattr(runner, "train", None)
    with pytest.raises(UserError) as error:
        swept(spec, tmp_path / "s", *settings, **flags)
    assert len(error.value.problems) == len(parts)
    for problem, part in zip(error.value.problems, parts, strict=True):
        assert part in problem
    assert not (tmp_path / "s").exists()


def test_no_evaluation_set(resumable, tmp_path):
    spec = str(config_file(resumable(evals={}), tmp_path))
    with pytest.raises(UserError, match="no evaluation set to choose by"):
        swept(spec, tmp_path / "s", ("lr", "1,2"))


def test_a_damaged_file(tmp_path):
    (tmp_path / "sweep.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        runner.former(tmp_path)


def test_rows_are_read_once(resumable, tmp_path, monkeypatch):
    spec, opened = str(config_file(resumable(), tmp_path)), []
    plain = Data.open
    monkeypatch.setattr(Data, "open", lambda self: opened.append(self.path) or plain(self))
    swept(spec, tmp_path / "s", ("lr", "1e-3,3e-3"))
    assert len(opened) == 2  # for training, and for `val`
