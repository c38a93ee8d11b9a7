"""Disks that are too small, fill up or cannot be written, on a small file system of their own."""

import errno
import logging
import subprocess

import pytest
from runs import numbers

from jaxft.config import Save
from jaxft.problems import RunStopped, UserError
from jaxft.training import loop as module
from jaxft.training.disk_space import check_space, report_disk_errors
from jaxft.training.fit import fit


@pytest.fixture
def mounted(tmp_path):
    """A function that mounts a file system of so many bytes, with these options; tests run as root, as in CI."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(size, *options):
        words = ",".join([f"size={size}", *options])
        subprocess.run(["mount", "-t", "tmpfs", "-o", words, "tmpfs", folder], check=True)
        return folder

    yield mount
    subprocess.run(["umount", "-l", folder], check=True)


def test_a_disk_that_fills_up(resumable, finished_run, mounted, monkeypatch):
    """The run ends, what was saved stays, and with room again it is the unbroken run."""
    disk, plain = mounted("40m"), module.after_step

    def after_step(run):
        if run.done == 5:
            run.checkpoints.wait()
            fill(disk / "filler")
        plain(run)

    with monkeypatch.context() as patch:
        patch.setattr(module, "after_step", after_step)
        with pytest.raises(RunStopped, match="disk/run cannot be written .the disk is full.*run the same command"):
            fit(resumable(), str(disk / "run"))
    assert {"2", "4"} <= {folder.name for folder in (disk / "run" / "checkpoints").iterdir()}
    assert [line["step"] for line in numbers(disk / "run")][:1] == [3]
    # Still full: said again, and nothing is lost.
    with pytest.raises((RunStopped, UserError)):
        fit(resumable(), str(disk / "run"))
    (disk / "filler").unlink()
    fit(resumable(), str(disk / "run"))
    assert numbers(disk / "run") == numbers(finished_run)


def fill(file):
    with open(file, "wb", buffering=0) as filler, pytest.raises(OSError, match="No space left"):
        while True:
            filler.write(bytes(4096))


def test_a_disk_that_is_too_small(resumable, mounted, caplog):
    """Before the first step, with both numbers."""
    disk = mounted("100k")
    with pytest.raises(UserError, match=r"disk has \d+ kB free, and the run needs \d+ kB .*make room") as caught:
        fit(resumable(), str(disk))
    assert "a checkpoint of 238 kB and a model of 79 kB" in str(caught.value)
    assert not (disk / "metrics.jsonl").exists()


def test_room_for_some(tmp_path, monkeypatch, caplog):
    """Three kept and one in the making; what lies there already will be replaced."""
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 450}))
    with pytest.raises(UserError, match="needs 0 kB"):
        check_space(tmp_path, 400, 3, 100)
    with caplog.at_level(logging.WARNING, "jaxft"):
        check_space(tmp_path, 100, 3, 100)
        assert "may need 0 kB" in caplog.text and "config.save.keep" in caplog.text
        caplog.clear()
        (tmp_path / "checkpoints").mkdir()
        (tmp_path / "checkpoints" / "file").write_bytes(bytes(50))
        check_space(tmp_path, 100, 3, 100)
        assert caplog.text == ""


def test_a_disk_that_cannot_be_written(resumable, mounted):
    disk = mounted("10m", "ro")
    with pytest.raises(UserError, match="cannot be a work directory .Read-only file system.: use another"):
        fit(resumable(save=Save(every=2)), str(disk / "run"))


def test_errors_of_other_kinds_pass(tmp_path):
    with pytest.raises(ValueError, match="something else"), report_disk_errors(tmp_path):
        raise ValueError("something else")
    with pytest.raises(RunStopped, match="quota"), report_disk_errors(tmp_path):
        raise ValueError("saving failed") from OSError(errno.EDQUOT, "Disk quota exceeded")
    file = str(tmp_path / "metrics.jsonl")
    for number, words in ((errno.EIO, "the disk does not answer"), (errno.EACCES, "permission was denied")):
        with pytest.raises(RunStopped, match=words), report_disk_errors(tmp_path):
            raise OSError(number, "", file)
        with pytest.raises(OSError), report_disk_errors(tmp_path / "run"):  # of another file: that is not the disk's
            raise OSError(number, "", file)
