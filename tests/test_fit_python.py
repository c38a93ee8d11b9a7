"""jaxft.fit: data that a program has, what it returns, callbacks, early stopping, threads."""

import csv
import json
import re
import threading
from dataclasses import replace
from pathlib import Path

import datasets
import jax
import jax.numpy as jnp
import nbclient
import nbformat
import numpy as np
import optax
import pandas
import polars
import pyarrow as pa
import pytest
import torch
from runs import numbers, write_rows
from sklearn.metrics import cohen_kappa_score

import jaxft
from jaxft.config import config_dict
from jaxft.config.component import from_json, to_json, trust
from jaxft.config.functions import as_function
from jaxft.data.memory import as_source
from jaxft.data.row_sequence import as_rows
from jaxft.problems import UserError
from jaxft.training.best import Best
from jaxft.training.callback import asked_to_end
from jaxft.training.early_stopping import Patience


class MapStyle:
    """A map-style data set, such as PyTorch has."""

    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, number):
        return self.rows[number]


@pytest.fixture(scope="module")
def rows(tmp_path_factory):
    with open(write_rows(tmp_path_factory.mktemp("rows") / "train.csv", 23), newline="") as file:
        return list(csv.DictReader(file))


KINDS = {
    "list": list,
    "tuple": tuple,
    "pandas.DataFrame": pandas.DataFrame,
    "polars.DataFrame": polars.DataFrame,
    "pyarrow.Table": pa.Table.from_pylist,
    "datasets.Dataset": datasets.Dataset.from_list,
    "a map-style data set": MapStyle,
}


def test_values_of_arrays_in_a_map_style_data_set():
    rows = [{"a": np.int64(3), "b": np.bool_(True), "c": torch.tensor([0, 1]), "d": np.float32(0.5), "e": "x"}]
    assert as_rows(as_source(MapStyle(rows)).open(), "rows")[:] == [
        {"a": 3, "b": True, "c": [0, 1], "d": 0.5, "e": "x"}
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_in_memory(rows, kind):
    assert as_rows(as_source(KINDS[kind](rows)).open(), "rows")[:] == rows


def test_missing_cells_and_numbers_of_a_data_frame():
    columns = {"text": ["a", None, "c"], "number": [1, 2, 3], "share": [0.5, np.nan, 1.0]}
    frame = pandas.DataFrame(columns, index=[7, 8, 9])
    opened = as_rows(as_source(frame).open(), "rows")
    assert opened.columns == ["text", "number", "share"]
    assert opened[:] == [
        {"text": "a", "number": 1, "share": 0.5},
        {"text": None, "number": 2, "share": None},
        {"text": "c", "number": 3, "share": 1.0},
    ]


def test_a_column_of_several_types_matters_only_if_it_is_read(resumable, rows, tmp_path):
    """The same as for the list of the rows, whose index and missing values are pandas' own."""
    mixed = [{**row, "note": note, 3: 1.5} for row, note in zip(rows, ["a", 1, None] * 8, strict=False)]
    opened = as_rows(as_source(pandas.DataFrame(mixed, index=range(23, 0, -1))).open(), "rows")
    assert opened.columns == ["text", "label", "note", "3"] and list(opened.mixed) == ["note"]
    assert [row["note"] for row in opened[:3]] == ["a", 1, None] and opened[0]["3"] == 1.5
    cfg = replace(resumable(evals={}), data=pandas.DataFrame(mixed), task=jaxft.Classify(text="note"))
    with pytest.raises(UserError, match="config.data: .* 1 in column 'note' has another type than the values before"):
        jaxft.fit(cfg, tmp_path / "run")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ([1, 2], "row 1: expected a dict of column names and values, found 1"),
        (["a text"], "row 1: expected a dict of column names and values, found 'a text'"),
        (b"bytes", "the data is b'bytes' .bytes., expected a file's path, a list of dicts, a DataFrame"),
        ({"a": [1]}, "the data is {'a': .1.} .dict., expected a file's path, a list of dicts, a DataFrame"),
        (pandas.DataFrame([[1, 2]], columns=["a", "a"]), "the DataFrame has the column 'a' more than once: rename"),
        ([{"a": object()}], "the data .list. holds a value that is no number, text, list or dict"),
        (Path("nowhere.csv"), "no such file: nowhere.csv"),
    ],
)
def test_what_is_no_rows(value, text):
    with pytest.raises(UserError, match=text):
        as_rows(as_source(value).open(), "rows")


def fields(config) -> dict:
    return {name: getattr(config, name) for name in type(config).__slots__}


def test_a_data_frame_gives_the_metrics_of_the_file(resumable, unbroken_run, rows, tmp_path):
    frame = pandas.DataFrame(rows)
    before = fields(resumable(evals={"val": jaxft.Eval(data=frame, every=5)}))
    run = jaxft.fit(**before | {"data": frame, "workdir": tmp_path / "run"})
    assert numbers(run.workdir) == numbers(unbroken_run)
    model, former = (folder / "model" / "model.safetensors" for folder in (run.workdir, unbroken_run))
    assert model.read_bytes() == former.read_bytes()
    last = [record for record in run.history if record["split"] == "val"][-1]
    assert run.metrics == {"val": {name: last[name] for name in run.metrics["val"]}}
    assert len(run.history) == len(numbers(unbroken_run)) and "<html" in run.report.read_text()[:200]
    assert [row["label"] for row in run.model.predict(["a good film"])][0] in ("neg", "pos", "neu")
    run.export(tmp_path / "exported", step=14)
    assert (tmp_path / "exported" / "model.safetensors").exists()


def test_a_run_goes_on_with_the_same_rows_only(resumable, rows, tmp_path):
    def short(given):
        return replace(resumable(evals={}), data=given, epochs=1)

    run = jaxft.fit(short(rows), tmp_path / "run")
    longer = jaxft.fit(replace(short(rows), epochs=2), tmp_path / "run", extend=True)
    assert len(longer.history) > len(run.history) - 1
    with pytest.raises(UserError, match="config.data is not what the run .* began with: as many rows; the first"):
        jaxft.fit(replace(short([*rows[:-1], {**rows[-1], "text": "other"}]), epochs=2), tmp_path / "run")
    with pytest.raises(UserError, match="23 rows were given in Python .list. and are not in the work directory"):
        from_json(json.loads((tmp_path / "run" / "config.json").read_text())).data.open()


def test_mistakes_are_listed_at_once(resumable, rows):
    with pytest.raises(UserError) as error:
        jaxft.fit(replace(resumable(), data=3, evals={"val": jaxft.Eval(data=[]), "test": {"a": 1}}))
    texts = error.value.problems
    assert texts[0].startswith("config.data: the data is 3 (int), expected a file's path, a list of dicts, a DataFrame")
    assert texts[1] == "config.evals.val: the data (list) has no rows" and texts[2].startswith("config.evals.test: ")
    with pytest.raises(UserError, match="learning_rate"):
        jaxft.fit(model="m", task=jaxft.Classify(), data=rows, learning_rate=1.0, batch=4)
    with pytest.raises(UserError, match="got a Config and the fields lr"):
        jaxft.fit(resumable(), lr=1.0)
    with pytest.raises(UserError, match=r"callbacks\[0\] is .* expected an object of a subclass of jaxft.Callback"):
        jaxft.fit(resumable(), callbacks=[print])


class Recorder(jaxft.Callback):
    def __init__(self, last=None):
        self.calls, self.last = [], last

    def _seen(self, *call):
        self.calls.append(call)
        return call[:2] == self.last

    def on_step(self, step, metrics):
        return self._seen("step", step, metrics.grad_norm)

    def on_log(self, step, numbers):
        return self._seen("log", step, numbers)

    def on_evaluation(self, step, name, metrics):
        return self._seen(name, step, metrics)


def test_callbacks_see_what_is_logged(resumable, unbroken_run, tmp_path):
    seen = Recorder()
    run = jaxft.fit(resumable(), tmp_path / "run", callbacks=[seen])
    assert numbers(run.workdir) == numbers(unbroken_run)
    told = [(name, step, values) for name, step, values in seen.calls if name != "step"]
    assert [(name.replace("log", "train"), step) for name, step, _ in told] == [
        (record["split"], record["step"]) for record in run.history
    ]
    for (_, _, values), record in zip(told, run.history, strict=True):
        assert {name: value for name, value in record.items() if name not in ("step", "split")} == values
    assert [step for name, step, _ in seen.calls if name == "step"] == list(range(1, 19))


@pytest.mark.parametrize("last", [("step", 7), ("log", 6), ("val", 5)])
def test_a_callback_ends_the_run(resumable, unbroken_run, tmp_path, last):
    """It is evaluated, saved and exported at this step; what was before is that of the whole run."""
    evals = resumable().evals
    cfg = resumable(evals={**evals, "late": replace(evals["val"], every=18)})
    run = jaxft.fit(cfg, tmp_path / "run", callbacks=[Recorder(last)])
    records = numbers(run.workdir)
    whole = [record for record in numbers(unbroken_run) if record["step"] < last[1]]
    assert records[: len(whole)] == whole
    assert sorted(r["split"] for r in records if r["step"] == last[1]) == ["late", "train", "val"]
    assert max(r["step"] for r in records) == last[1] and (run.workdir / "checkpoints" / str(last[1])).exists()
    summary = json.loads((run.workdir / "summary.json").read_text())
    assert summary["ended"] == "Recorder asked for it" and summary["model_step"] == last[1]
    model = (run.workdir / "model" / "model.safetensors").read_bytes()
    again = jaxft.fit(cfg, tmp_path / "run")  # it has ended
    assert again.metrics == run.metrics and numbers(run.workdir) == records
    assert (run.workdir / "model" / "model.safetensors").read_bytes() == model


@pytest.mark.parametrize("true", [True, np.True_, jnp.array(True)], ids=["python", "numpy", "jax"])
def test_any_truth_value_ends_a_run(true):
    assert asked_to_end(jaxft.Callback(), true) and not asked_to_end(jaxft.Callback(), ~np.asarray(true))
    assert not asked_to_end(jaxft.Callback(), None)
    with pytest.raises(
        UserError, match="a method of Callback returned 'yes', expected True .the run ends., False or None"
    ):
        asked_to_end(jaxft.Callback(), "yes")


class Killer(jaxft.Callback):
    def on_step(self, step, metrics):
        return step == 13 and 1 / 0


RULE = jaxft.EarlyStopping(metric="val/loss", patience=2)


def test_patience_counts_evaluations():
    """By hand: the third value does not improve by 0.1, NaN never does."""
    patience = Patience(replace(RULE, metric="val/f1", min_delta=0.1), Best("val/f1", "max"))
    found = [patience.observe({"f1": value}) for value in (0.5, 0.7, 0.75, 0.9, float("nan"), 0.95)]
    assert [one is None for one in found] == [True, True, True, True, True, False]
    assert found[-1] == "val/f1 did not improve in 2 evaluations (best: 0.9)"
    low = Patience(RULE, Best("val/loss", "min"))
    assert [low.observe({"loss": value}) for value in (3.0, 2.0, 2.0)] == [None] * 3 and low.waited == 1


def stops(config, **more):
    """A run whose loss on `val` never improves, because the weights do not change enough to see."""
    return config(early_stopping=replace(RULE, min_delta=100.0), **more)


def test_early_stopping(resumable, unbroken_run, tmp_path):
    """The first evaluation, at step 5, is the best one; 10 and 15 are no better. A killed run stops there, too."""
    run = jaxft.fit(stops(resumable), tmp_path / "run")
    assert numbers(run.workdir)[-1]["step"] == 15
    whole = [record for record in numbers(unbroken_run) if record["step"] <= 15]
    assert numbers(run.workdir) == whole
    with pytest.raises(ZeroDivisionError):
        jaxft.fit(stops(resumable), tmp_path / "killed", callbacks=[Killer()])
    jaxft.fit(stops(resumable), tmp_path / "killed")
    assert numbers(tmp_path / "killed") == numbers(run.workdir)
    files = [folder / "model" / "model.safetensors" for folder in (tmp_path / "killed", run.workdir)]
    assert files[0].read_bytes() == files[1].read_bytes()
    jaxft.fit(resumable(), tmp_path / "run")  # without the rule it goes on to the end
    assert numbers(run.workdir) == numbers(unbroken_run)
    longer = jaxft.fit(replace(stops(resumable), epochs=8), tmp_path / "killed", extend=True)
    assert numbers(longer.workdir)[-1]["step"] == 25  # two evaluations later, not at the next one


def test_a_complete_run_has_the_metrics_of_the_exported_step(resumable, tmp_path):
    """By the largest loss an early step is the best one."""
    cfg = resumable(save=jaxft.Save(every=5, best="val/loss", mode="max"))
    run = jaxft.fit(cfg, tmp_path / "run")
    values = {record["step"]: record["loss"] for record in run.history if record["split"] == "val"}
    assert run.metrics["val"]["loss"] == max(values.values()) != values[max(values)]
    assert jaxft.fit(cfg, tmp_path / "run").metrics == run.metrics


def test_early_stopping_needs_a_metric_that_exists(resumable, tmp_path):
    with pytest.raises(UserError, match="config.early_stopping.metric is 'dev/loss', but no eval is named 'dev'"):
        jaxft.fit(resumable(early_stopping=replace(RULE, metric="dev/loss")), tmp_path / "run")
    with pytest.raises(UserError, match="config.early_stopping.metric is 'val/los', but Classify gives no 'los'"):
        jaxft.fit(resumable(early_stopping=replace(RULE, metric="val/los")), tmp_path / "run")
    with pytest.raises(UserError, match="config.early_stopping: metric is 'loss', expected 'EVAL/METRIC'"):
        jaxft.fit(resumable(early_stopping=replace(RULE, metric="loss")), tmp_path / "run")


def test_evaluation_before_the_first_step(resumable, unbroken_run, tmp_path):
    run = jaxft.fit(resumable(eval_on_start=True, save=jaxft.Save(every=2, keep=99)), tmp_path / "run")
    assert sorted(int(folder.name) for folder in (run.workdir / "checkpoints").iterdir()) == list(range(2, 19, 2))
    records = numbers(run.workdir)
    assert (records[0]["step"], records[0]["split"]) == (0, "val") and records[1:] == numbers(unbroken_run)
    untrained = jaxft.load(resumable().model, head="sequence-classification")
    assert untrained is not None and records[0]["loss"] != records[-1]["loss"]


def cross_entropy(out, batch):
    """The task's own loss, and half of it counted twice: the same gradient."""
    errors = optax.softmax_cross_entropy_with_integer_labels(out.logits, batch["targets"])
    return 2 * jnp.sum(errors * batch["weights"]), 2 * jnp.sum(batch["weights"])


def kappa(outputs):
    return cohen_kappa_score(outputs["targets"], outputs["logits"].argmax(-1))


def test_own_loss_and_metrics(resumable, unbroken_run, tmp_path):
    """Twice the total over twice the count is the same loss."""
    cfg = resumable(loss=cross_entropy, metrics={"kappa": kappa, "rows": lambda outputs: len(outputs["index"])})
    run = jaxft.fit(cfg, tmp_path / "run")
    evaluated = [record for record in numbers(run.workdir) if record["split"] == "val"]
    assert [record.pop("rows") for record in evaluated] == [23.0] * len(evaluated)
    assert all(np.isfinite(record.pop("kappa")) for record in evaluated)
    kept = [{k: v for k, v in record.items() if k not in ("kappa", "rows")} for record in numbers(run.workdir)]
    assert all(record.pop("weighted_loss") == pytest.approx(record["loss"], rel=1e-6) for record in kept)
    for record, other in zip(kept, numbers(unbroken_run), strict=True):
        assert record.pop("split") == other["split"]
        assert record == pytest.approx({k: v for k, v in other.items() if k != "split"}, rel=2e-6)
    run.export(tmp_path / "exported")  # one of the metrics has no name from which it could be found
    again = run.evaluate()
    assert again["val"]["rows"] == 23.0 and again["val"]["kappa"] == run.metrics["val"]["kappa"]
    rows = jaxft.Data(path=cfg.data.path).open()[:]
    answers = [row["label"] for row in run.model.predict([row["text"] for row in rows])]
    assert run.metrics["val"]["kappa"] == pytest.approx(cohen_kappa_score([row["label"] for row in rows], answers))
    written = json.loads((run.workdir / "config.json").read_text())
    assert written["loss"] == f"{__name__}:cross_entropy"
    with pytest.raises(UserError, match="a name may run any function. If you trust that module: --allow-import="):
        as_function(written["loss"], "config.loss")
    trust(__name__)
    assert as_function(written["loss"], "config.loss") is cross_entropy


def test_mistakes_in_own_functions(resumable, tmp_path):
    with pytest.raises(UserError) as error:
        jaxft.fit(resumable(loss=3, metrics={"a": "nowhere", "b": "jaxft.problems:sugest"}), tmp_path / "run")
    assert error.value.problems == [
        "config.loss is 3, expected a function, or its name 'MODULE:FUNCTION'",
        "config.metrics['a'] is 'nowhere', expected a function, or its name 'MODULE:FUNCTION'",
        "config.metrics['b'] is 'jaxft.problems:sugest', which does not exist. Did you mean 'suggest'?",
    ]
    with pytest.raises(UserError, match="config.metrics: Classify has a metric 'accuracy' already: use another name"):
        jaxft.fit(resumable(metrics={"accuracy": kappa}), tmp_path / "run")
    for wrong, shown in (
        (lambda out, batch: out.logits.sum(), r"an array float32\[\]"),
        (lambda out, batch: (out.logits.sum(-1), 1.0), r"\(an array float32\[[0-9,]+\], 1.0\)"),
        (lambda out, batch: (1, 2), r"\(1, 2\)"),
        (lambda out, batch: (out.logits.sum(), "2"), r"\(an array float32\[\], '2'\)"),
    ):
        with pytest.raises(
            UserError, match=rf"config.loss returned {shown}, expected a pair of numbers, .total, count."
        ):
            jaxft.fit(resumable(loss=wrong), tmp_path / "run")
    with pytest.raises(UserError, match=r"config.metrics.'a'. returned .* expected a number"):
        jaxft.fit(resumable(metrics={"a": lambda outputs: outputs["targets"]}), tmp_path / "other")


@pytest.mark.parametrize("name", ["os:system", "subprocess:Popen", "builtins:print", "jaxft.cli.command:os.system"])
def test_a_name_runs_no_function_of_a_module_that_is_not_trusted(name):
    with pytest.raises(UserError, match="a name may run any function|which does not exist"):
        as_function(name, "config.loss")


def test_only_loss_and_metrics_may_be_functions(resumable):
    """Elsewhere the name of a function would come back as a text."""
    cfg = replace(resumable(loss=jax.jit(cross_entropy)), task=jaxft.Classify(text=kappa))
    with pytest.raises(UserError, match="a configuration holds <function kappa .* cannot be written as JSON"):
        to_json(cfg)
    assert to_json(replace(cfg, task=jaxft.Classify()))["loss"] == f"{__name__}:cross_entropy"


def test_fit_in_a_thread_without_a_work_directory(resumable, unbroken_run, caplog):
    made = []
    thread = threading.Thread(target=lambda: made.append(jaxft.fit(resumable())))
    thread.start()
    thread.join()
    assert numbers(made[0].workdir) == numbers(unbroken_run)
    assert f"no workdir was given: the run is written to {made[0].workdir}" in caplog.messages


CELL = """
import jaxft
run = jaxft.fit(jaxft.Config(
    model={model!r}, task=jaxft.Classify(), data={data!r}, evals={{"val": jaxft.Eval(data={data!r}, every=4)}}, lr=1e-3,
    batch=8, steps=4, max_len=32, log_every=2,
), {workdir!r})
print(run.metrics["val"]["accuracy"])
"""


def test_fit_in_a_notebook(tiny_bert, tmp_path):
    """The output of the cell is one that was replaced: the last line, the last evaluation, a curve of two points."""
    data = write_rows(tmp_path / "train.csv", 12)
    cell = nbformat.v4.new_code_cell(CELL.format(model=str(tiny_bert), data=data, workdir=str(tmp_path / "run")))
    notebook = nbformat.v4.new_notebook(cells=[cell])
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    shown = [output for output in cell.outputs if output.output_type == "display_data"]
    assert len(shown) == 1
    page = shown[0].data["text/html"]
    records = numbers(tmp_path / "run")
    assert f"step 4/4  loss {[r for r in records if r['split'] == 'train'][-1]['loss']:.4f}" in page
    assert f"step 4 val: loss {records[-1]['loss']:.4f}" in page
    assert re.findall(r'd="(M[^"]+)"', page)[0].count("L") == 1 and page.count("<path") == 2
    accuracy = "".join(output.text for output in cell.outputs if output.get("name") == "stdout")
    assert float(accuracy) == records[-1]["accuracy"]


def test_public_names():
    assert set(jaxft.__all__) <= set(dir(jaxft))
    for name in jaxft.__all__:
        assert getattr(jaxft, name) is not None
    assert set(config_dict.MODULE_OF) <= set(jaxft.__all__)
    text = Path(jaxft.__file__).read_text().partition("__version__")[0].partition("if TYPE_CHECKING")[2]
    hinted = re.findall(r"(?:import|,) (\w+)", text)
    assert sorted(hinted) == sorted(jaxft.__all__)
