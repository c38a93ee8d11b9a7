"""`jaxft NAME` and `python -m jaxft NAME` do what `python -m jaxft.NAME` does; alone, they list commands."""

import importlib
import os
import re
import resource
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from runs import write_rows

from jaxft.cli.commands import COMMANDS, listing

ROOT = Path(__file__).parent.parent
SCRIPT = "import sys\nfrom jaxft.__main__ import script\nsys.exit(script())\n"  # as pip writes it


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    file = tmp_path_factory.mktemp("bin") / "jaxft"
    file.write_text(SCRIPT)
    return file


def ask(folder, *words) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    line = [sys.executable, *map(str, words)]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, env=environment, timeout=300)


def test_pip_installs_the_script():
    module, _, name = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]["jaxft"].partition(":")
    assert f"from {module} import {name}\n" in SCRIPT and callable(getattr(importlib.import_module(module), name))


def test_the_list_has_every_command():
    modules = {file.stem for file in (ROOT / "jaxft").glob("*.py") if "    command.run(" in file.read_text()}
    assert set(COMMANDS) == modules
    for name in COMMANDS:
        (line,) = re.findall(rf"^  {name} +(.+)$", listing("jaxft"), re.M)
        first = (ROOT / f"jaxft/{name}.py").read_text().partition("\n")[0]
        assert first.startswith(f'"""{line}: ') and len(line) > 10


def test_the_list_needs_no_library(script, tmp_path):
    """And at most 0.3 s of a processor beyond Python itself."""

    def seconds(*words) -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = ask(tmp_path, *words)
        assert done.returncode == 0, done.stderr
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    for words in ((script,), (script, "--help"), ("-m", "jaxft"), ("-m", "jaxft", "-h")):
        assert ask(tmp_path, *words).stdout.count("\n") > len(COMMANDS)
        done = ask(tmp_path, "-X", "importtime", *words)
        imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in done.stderr.splitlines()}
        assert "jaxft" in imported and not imported & {"jax", "transformers", "numpy", "flax", "rich"}
    assert seconds("-m", "jaxft") - seconds("-c", "pass") < 0.3
    assert seconds("-m", "jaxft", "train", "--help") - seconds("-c", "pass") < 0.6


@pytest.mark.parametrize(
    "words, message",
    [
        (["trian"], "there is no command 'trian'. Did you mean 'train'? Commands: new, train,"),
        (["jaxft.train"], "there is no command 'jaxft.train'."),
        (["--config=x"], "--config=x comes before the command: "),
    ],
)
def test_what_is_not_a_command(script, tmp_path, words, message):
    for start in ([script], ["-m", "jaxft"]):
        done = ask(tmp_path, *start, *words)
        assert done.returncode == 2 and not done.stdout
        assert done.stderr.startswith(f"error: {message}") and done.stderr.count("\n") == 1


def test_the_same_module_runs(script, tmp_path):
    """With the same output, exit code and modules of the current directory: only those of the configuration file."""
    (tmp_path / "neighbour.py").write_text("from pathlib import Path\nprint(Path(__file__).name)\n")
    for name in ("json", "dataclasses", "jax", "transformers"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')\n")
    (tmp_path / "mine.py").write_text("import neighbour\n\ndef get_config():\n    return neighbour.__name__\n")
    answers = []
    for start in ([script, "train"], ["-m", "jaxft", "train"], ["-m", "jaxft.train"]):
        done = ask(tmp_path, *start, "--config=mine.py", "--confg=x")
        answers.append((done.returncode, done.stdout, done.stderr))
    assert answers[0] == answers[1] == answers[2]
    assert answers[0][:2] == (2, "neighbour.py\n") and "get_config returned 'neighbour'" in answers[0][2]
    usages = [ask(tmp_path, *start, "--help").stdout.split(" --config")[0] for start in ([script, "train"],)]
    assert usages == ["usage: jaxft train"]
    assert ask(tmp_path, "-m", "jaxft", "train", "--help").stdout.startswith("usage: python -m jaxft train --config")
    assert ask(tmp_path, "-m", "jaxft.train", "--help").stdout.startswith("usage: python -m jaxft.train --config")


def test_training_by_the_script(script, tiny_bert, tmp_path):
    rows = write_rows(tmp_path / "rows.csv", 8)
    values = f"model={str(tiny_bert)!r}, data=Data(path={str(rows)!r}), lr=1e-3, batch=8, steps=2, max_len=32"
    lines = [
        "from jaxft.config import Config",
        "from jaxft.data import Data",
        "from jaxft.tasks.classify import Classify",
        f"get_config = lambda: Config(task=Classify(), {values})",
    ]
    (tmp_path / "mine.py").write_text("\n".join(lines))
    done = ask(tmp_path, script, "train", "--config=mine.py", "--workdir=run")
    assert done.returncode == 0 and "model written to" in done.stderr, done.stderr


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 75), (signal.SIGINT, 130)])
def test_a_signal_before_anything_is_imported(number, code, tmp_path):
    kill = f"lambda name: os.kill(os.getpid(), {int(number)})"
    lines = f"import os, jaxft.__main__ as m; m.commands.run = {kill}; m.script()"
    done = ask(tmp_path, "-c", lines)
    assert done.returncode == code and "Traceback" not in done.stderr
