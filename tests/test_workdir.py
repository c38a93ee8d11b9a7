"""What lies in a work directory may be damaged, missing, a link or another user's: one message, and nothing is lost."""

import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import jax
import pytest
from runs import numbers, write_rows

from jaxft.config import Config, Eval, Save, load_config
from jaxft.data import Data, Pad
from jaxft.evaluation.baseline import training_counts
from jaxft.models.checkpoint.save import output_problems
from jaxft.problems import UserError
from jaxft.reports.records import mend
from jaxft.reports.report import write_predictions
from jaxft.tasks.classify import Classify
from jaxft.training.fit import fit
from jaxft.training.lock import workdir_lock
from jaxft.training.resume import former_run

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def job(tiny_bert, tmp_path_factory):
    """(configuration, work directory) of a run of eight steps; checkpoints 6 and 8 are kept."""
    folder = tmp_path_factory.mktemp("job")
    data = Data(path=write_rows(folder / "train.csv", 16))
    cfg = Config(
        model=str(tiny_bert),
        init="backbone",
        task=Classify(),
        data=data,
        evals={"val": Eval(data=data, every=2)},
        lr=1e-3,
        batch=8,
        steps=8,
        max_len=32,
        batching=Pad(buckets=(32,)),
        log_every=1,
        save=Save(every=2, keep=2),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jax, "device_count", lambda *backend: 1)
        fit(cfg, str(folder / "run"))
    return cfg, folder / "run"


@pytest.fixture
def again(job, tmp_path, one_device, caplog):
    """Runs the job again after something was done to its work directory, from step 6; returns what was said."""
    cfg, whole = job
    shutil.copytree(whole, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "8")
    shutil.rmtree(tmp_path / "run" / "model")

    def again():
        caplog.clear()
        with caplog.at_level(logging.WARNING, "jaxft"):
            fit(cfg, str(tmp_path / "run"))
        assert "Traceback" not in caplog.text
        return caplog.text

    again.workdir, again.whole = tmp_path / "run", whole
    return again


def lines(workdir, name="metrics.jsonl") -> list[str]:
    return (workdir / name).read_text().splitlines(keepends=True)


def test_a_whole_log_says_nothing(again):
    assert again() == ""
    assert numbers(again.workdir) == numbers(again.whole)


def test_a_torn_line_of_a_part_that_is_done_again(again):
    file = again.workdir / "metrics.jsonl"
    file.write_bytes(file.read_bytes()[:-20])
    assert again() == ""
    assert numbers(again.workdir) == numbers(again.whole)


def test_a_log_that_was_cut(again):
    """Of the last checkpoint's own lines nothing is missing afterwards, and the run's end is written as ever."""
    text = lines(again.workdir)
    (again.workdir / "metrics.jsonl").write_text("".join(text[:7]) + text[7][:30])
    said = again()
    assert "lacks 2 of the 9 lines up to step 6: 2 are restored from checkpoints, 0 are lost" in said
    assert numbers(again.workdir) == numbers(again.whole)


# Steps 1 to 6 have a line each, and 2, 4, 6 an evaluation: nine lines, of which the checkpoint knows the latest two.
@pytest.mark.parametrize(
    "damage, lost, restored",
    [
        (lambda file, text: file.unlink(), 7, 2),
        (lambda file, text: file.write_text(""), 7, 2),
        (lambda file, text: file.write_text("".join(text[:7])), 0, 2),
        (lambda file, text: file.write_text("".join([*text[:3], "{]\n", *text[4:]])), 1, 0),
        (lambda file, text: file.write_text("".join([*text[:8], "[1]\n", *text[9:]])), 0, 1),
        (lambda file, text: file.write_text("".join(["null\n", *text[1:7], '{"step": "x"}\n', text[8]])), 1, 1),
        (lambda file, text: file.write_text("".join(['{"step": 1, "split": 3}\n', *text[1:]])), 1, 0),
        (lambda file, text: file.write_text("".join(['{"step": 1, "split": "train", "loss": []}\n', *text[1:]])), 1, 0),
        (lambda file, text: file.write_text("".join(["[" * 100_000 + "\n", *text[1:]])), 1, 0),
        (lambda file, text: file.write_text("".join(["1" * 5000 + "\n", *text[1:]])), 1, 0),
        (lambda file, text: file.write_bytes(b"\xff\xfe\n" + "".join(text[1:]).encode()), 1, 0),
    ],
)
def test_logs_that_were_damaged(job, tmp_path, caplog, damage, lost, restored):
    text = lines(job[1])
    file = tmp_path / "metrics.jsonl"
    file.write_text("".join(text))
    damage(file, text)
    before = file.read_bytes() if file.exists() else b""
    saved = json.loads((job[1] / "checkpoints" / "6" / "run" / "metadata").read_text())["log"]["metrics"]
    assert saved["lines"] == 9
    mend(file, 6, [], ["train", "val"], saved["lines"], lambda: saved["latest"])
    words = f"lacks {lost + restored} of the 9 lines up to step 6: {restored} are restored from checkpoints, {lost} are"
    assert words in caplog.text
    found = lines(tmp_path)
    assert [line for line in text if line in found] == found and len(found) == 9 - lost
    if "cannot be read" in caplog.text:
        assert (tmp_path / "metrics.jsonl.unreadable").read_bytes() == before


def test_a_log_that_was_lost_after_the_end(job, tmp_path, one_device, caplog):
    cfg, whole = job
    shutil.copytree(whole, tmp_path / "run")
    (tmp_path / "run" / "metrics.jsonl").unlink()
    fit(cfg, str(tmp_path / "run"))
    assert "lacks 12 of the 12 lines up to step 8: 4 are restored" in caplog.text  # of checkpoints 6 and 8
    assert numbers(tmp_path / "run") == [line for line in numbers(whole) if line["step"] in (6, 8)]


def test_damaged_pictures_and_an_empty_summary(again):
    bad = ["{]", "[]", '{"step": 2, "split": "val", "figures": [3]}', ""]
    (again.workdir / "pictures.jsonl").write_text("\n".join(bad))
    (again.workdir / "summary.json").write_text("")
    assert "pictures.jsonl lacks 3 of the 3 lines up to step 6: 0 are restored" in again()
    assert training_counts(str(again.workdir)) == training_counts(str(again.whole))
    assert (again.workdir / "report.html").read_text().count("<h") > 5


@pytest.mark.parametrize("content", [b"", b"null", b"[]", b"\xff", b'{"targets": 3}', b'{"targets": {"train": ["a"]}}'])
def test_a_damaged_summary(tmp_path, content, caplog):
    (tmp_path / "summary.json").write_bytes(content)
    assert training_counts(str(tmp_path)) is None
    assert "summary.json is damaged" in caplog.text


@pytest.mark.parametrize("content", [b"", b"[]", b"null", b"3", b"[" * 100_000, b"1" * 5000, b"\xff", b'{"lr": NaN}'])
def test_a_damaged_configuration(job, tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UserError, match="config.json is damaged .*: use another --workdir"):
        former_run(job[0], tmp_path, False)
    with pytest.raises(UserError, match="config.json"):
        load_config(tmp_path / "config.json")


NAMES = "config.json origin.json metrics.jsonl pictures.jsonl summary.json report.html".split()


@pytest.mark.parametrize("partial", ["", ".partial"])
def test_links_are_not_followed(again, tmp_path, partial):
    """A link in the place of an output is replaced; what it points at stays as it was."""
    for name in NAMES:
        place, target = again.workdir / f"{name}{partial}", tmp_path / name
        target.write_bytes((again.workdir / name).read_bytes())
        place.unlink(missing_ok=True)
        place.symlink_to(target)
    before = {name: (tmp_path / name).read_bytes() for name in NAMES}
    again()
    assert {name: (tmp_path / name).read_bytes() for name in NAMES} == before
    assert not any((again.workdir / name).is_symlink() for name in NAMES)
    assert numbers(again.workdir) == numbers(again.whole)


def test_links_that_are_refused(tmp_path):
    (tmp_path / "mine").write_text("precious")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "val.json").write_text("precious")
    run = tmp_path / "run"
    run.mkdir()
    (run / ".running").symlink_to(tmp_path / "mine")
    with (
        pytest.raises(UserError, match="cannot be a work directory .*symbolic link: remove it.*: use"),
        workdir_lock(run),
    ):
        pass
    (run / "predictions").symlink_to(tmp_path / "folder")
    with pytest.raises(UserError, match="predictions is a symbolic link"):
        write_predictions(run, "val", {".json": {}})
    for name in ("model", "other.partial"):
        (run / name).symlink_to(tmp_path / "folder")
        assert "is a symbolic link" in output_problems(run / name.removesuffix(".partial"))[0]
    assert (tmp_path / "mine").read_text() == (tmp_path / "folder" / "val.json").read_text() == "precious"


def test_a_claim_leaves_the_file_as_it_is(tmp_path):
    (tmp_path / ".running").write_text("kept")
    with workdir_lock(tmp_path):
        pass
    assert (tmp_path / ".running").read_text() == "kept"


def test_entries_of_another_kind(tmp_path):
    (tmp_path / "metrics.jsonl").mkdir()
    (tmp_path / "checkpoints").write_text("")
    os.mkfifo(tmp_path / "config.json")
    (tmp_path / "summary.json").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError) as error, workdir_lock(tmp_path):
        pass
    found = " ".join(error.value.problems)
    assert len(error.value.problems) == 4 and "metrics.jsonl is not a file" in found
    assert "checkpoints is not a directory" in found and "summary.json cannot be read" in found


NOBODY = """
import json, os, sys
from pathlib import Path
from jaxft.training.lock import workdir_lock
from jaxft.models.checkpoint.save import place_problems
from jaxft.problems import UserError

os.setgroups([])
os.setgid(65534)
os.setuid(65534)
mine, theirs = Path(sys.argv[1]) / "mine", Path(sys.argv[1]) / "theirs"
found = []
for folder in (mine, theirs):
    try:
        with workdir_lock(folder):
            found.append([])
    except UserError as error:
        found.append(error.problems)
print(json.dumps([*found, place_problems(theirs / "model"), place_problems(mine / "model")]))
"""


def test_files_of_another_user():
    """Asked in a child process that is no longer root, to whom everything is allowed."""
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        for place, mode in ((folder, 0o755), (folder / "mine", 0o777), (folder / "theirs", 0o755)):
            place.mkdir(exist_ok=True)
            place.chmod(mode)
        for place in ("metrics.jsonl", "config.json"):
            (folder / "mine" / place).write_text("")
            (folder / "mine" / place).chmod(0o600 if place == "metrics.jsonl" else 0o644)
        (folder / "mine" / "checkpoints").mkdir(0o755)
        words = [sys.executable, "-c", NOBODY, name]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    mine, theirs, refused, allowed = json.loads(done.stdout)
    assert len(mine) == 2 and allowed == []
    assert "metrics.jsonl cannot be read (Permission denied), or use another --workdir" in mine[0]
    assert "checkpoints cannot be written (Permission denied)" in mine[1]
    assert "cannot be a work directory (Permission denied): use another --workdir" in theirs[0]
    assert "theirs cannot be written: use another directory" in refused[0]
