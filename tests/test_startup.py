"""A command imports nothing that merely lies where it runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from runs import write_rows

from jaxft.config import Config, save_config
from jaxft.data import Data
from jaxft.tasks.classify import Classify

ROOT = Path(__file__).parent.parent
# Modules that Python, JAX, transformers or jaxft import, some of them only if they are there.
NAMES = "json dataclasses logging numpy jax transformers tensorboardX wandb torch yaml jax_plugins/evil payload".split()


@pytest.fixture
def workdir(tiny_bert, tmp_path):
    """A work directory with a module of each of the names, which leaves a file behind when it is imported."""
    for name in NAMES:
        file = tmp_path / name / "__init__.py" if "/" in name else tmp_path / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"open({str(tmp_path / 'ran')!r}, 'a').write({name!r} + '\\n')\n")
    data = Data(path=write_rows(tmp_path / "rows.csv", 8))
    cfg = Config(model=str(tiny_bert), task=Classify(), data=data, lr=1e-3, batch=8, steps=2, max_len=32)
    save_config(cfg, tmp_path / "config.json")
    return tmp_path


def ask(folder, *words) -> subprocess.CompletedProcess:
    """A command that runs in `folder`."""
    line = [sys.executable, "-m", *map(str, words)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, env=environment, timeout=300)


@pytest.mark.parametrize("words", [("jaxft.export", "--workdir=.", "--output=out"), ("jaxft.evaluate", "--workdir=.")])
def test_a_work_directory_names_a_module(workdir, words):
    cfg = json.loads((workdir / "config.json").read_text())
    cfg["task"]["class"] = "payload:Task"
    (workdir / "config.json").write_text(json.dumps(cfg))
    done = ask(workdir, *words)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "config.json: the configuration names the class 'payload:Task'" in done.stderr
    assert "--allow-import=payload" in done.stderr and not (workdir / "ran").exists()
    allowed = ask(workdir, *words, "--allow-import=payload")
    assert (workdir / "ran").read_text() == "payload\n"  # and nothing else
    assert allowed.returncode == 2 and "'payload:Task', which does not exist" in allowed.stderr


def test_a_run_whose_directory_has_modules(workdir):
    """Training, measuring and writing; the user's configuration file finds its neighbour, and no library there."""
    (workdir / "config.json").rename(workdir / "settings.json")
    (workdir / "neighbour.py").write_text("from jaxft.config import load_config\n")
    lines = ["import json", "from neighbour import load_config", "get_config = lambda: load_config('settings.json')"]
    (workdir / "mine.py").write_text("\n".join(lines) + "\n")
    for words in (
        ("jaxft.train", "--config=mine.py", "--workdir=."),
        ("jaxft.evaluate", "--workdir=."),
        ("jaxft.export", "--workdir=.", "--output=out"),
    ):
        done = ask(workdir, *words)
        assert done.returncode == 0, done.stderr
    assert not (workdir / "ran").exists()


CACHED = """
import sys
import jax
import jaxft

model = jaxft.load(sys.argv[1], head="none")
model.predict(["a film"])
print(jax.config.jax_compilation_cache_dir)
"""


@pytest.mark.parametrize("own", [False, True])
def test_programs_are_kept_when_a_program_of_the_user_compiles_them(tiny_bert, tmp_path, own):
    """In jaxft's folder, unless the user has chosen another one."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("JAX_")}
    env |= {"XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path), "JAX_PLATFORMS": "cpu"}
    env |= {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    env |= {"JAX_COMPILATION_CACHE_DIR": str(tmp_path / "own")} if own else {}
    words = [sys.executable, "-c", CACHED, str(tiny_bert)]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
    folder = tmp_path / "own" if own else tmp_path / "jaxft" / "compiled"
    assert done.stdout.strip() == str(folder)
    assert any(folder.iterdir()) and (tmp_path / "jaxft").exists() != own
