"""Files that commands write: there as a whole, and refused before anything is computed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from jaxft.host.output_file import atomic_write, check_output, replace_bytes
from jaxft.problems import UserError


def test_a_file_is_whole_or_as_it_was(tmp_path):
    file = tmp_path / "out.txt"
    file.write_text("before")
    with pytest.raises(ZeroDivisionError), atomic_write(str(file)) as partial:
        Path(partial).write_text("half")
        raise ZeroDivisionError
    assert file.read_text() == "before" and list(tmp_path.iterdir()) == [file]
    with atomic_write(str(file)) as partial:
        Path(partial).write_text("after")
        assert file.read_text() == "before"
    assert file.read_text() == "after" and list(tmp_path.iterdir()) == [file]


def test_where_no_file_can_be(tmp_path):
    with pytest.raises(UserError) as error:
        check_output(None, f"{tmp_path}/none/out.txt", str(tmp_path), f"{tmp_path}/fine.txt", "here.txt")
    first, second = error.value.problems
    assert first == f"there is no directory {tmp_path}/none for out.txt: make it, or use another one"
    assert second == f"{tmp_path} is a directory: name a file in it"


COMMANDS = {
    "predict": ["--input=nowhere.csv", "--output=none/x.jsonl"],
    "explain": ["--input=nowhere.csv", "--output=x.html", "--numbers=none/x.jsonl"],
    "bias": ["--input=nowhere.csv", "--swaps=nowhere.csv", "--output=none/x.jsonl"],
    "parity": ["--write=none/x.npz"],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_commands_say_it_first(name, tmp_path):
    """Before the model, which is not there either."""
    line = [sys.executable, "-m", f"jaxft.{name}", "--model=nowhere", *COMMANDS[name]]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: there is no directory"), done.stderr
    assert "Traceback" not in done.stderr


def test_places_that_cannot_be_written(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda place, how: not how & os.W_OK)  # root may write everywhere
    with pytest.raises(UserError, match=f"{tmp_path} cannot be written: use another place for out.txt"):
        check_output(str(tmp_path / "out.txt"))


def test_bytes_in_one_move(tmp_path):
    file, target = tmp_path / "out.txt", tmp_path / "target.txt"
    target.write_text("precious")
    for place in (file, tmp_path / "out.txt.partial"):
        place.symlink_to(target)
    replace_bytes(file, b"new")
    assert file.read_bytes() == b"new" and not file.is_symlink() and target.read_text() == "precious"
