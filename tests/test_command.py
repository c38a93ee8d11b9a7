"""Commands: every mistake on the command line or in the configuration file is one message with its fix."""

import io
import logging
import os
import signal
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest

from jaxft.cli import command
from jaxft.config import file as config_file
from jaxft.config import load_config, save_config
from jaxft.config.component import modules_of
from jaxft.config.functions import as_function
from jaxft.config.overrides import parse as read
from jaxft.host.memory import tune_allocator
from jaxft.problems import UserError

PARTS = """
    import dataclasses
    from jaxft.config import Config, Eval
    from jaxft.config.component import config
    from jaxft.optim.adamw import AdamW
    from jaxft.optim.schedule import Linear
    from jaxft.tune.full import Full

    @config
    class Rows:
        buckets: tuple[int, ...] = ()
        names: tuple[str, ...] = ()
        sort: bool = True
        weights: tuple[float, ...] | str | None = None
        table: dict[str, int] = dataclasses.field(default_factory=lambda: {"a": 1})

    @config
    class Source:
        path: str = "there"
        limit: int | None = None
        def open(self): return []

    @config
    class Task:
        text: str = "text"
        def encode(self, rows): return rows
"""
GOOD = """
    def get_config(name="base"):
        data = Source()
        return Config(model=f"org/{name}", task=Task(), data=data, evals={"val": Eval(data=data)}, lr=1e-3, batch=8,
                      steps=10, batching=Rows(), tune=Full(), optim=AdamW(), schedule=Linear())
"""
FLAGS = (command.CONFIG, command.WORKDIR, command.Flag("step", "which checkpoint", int), command.JSON)


@pytest.fixture
def write(tmp_path, monkeypatch):
    """Writes a configuration file into the current directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(body=GOOD, name="tiny_run.py"):
        sys.modules.pop("tiny_run", None)
        (tmp_path / name).write_text(textwrap.dedent(PARTS) + textwrap.dedent(body))
        return name

    yield write
    sys.modules.pop("tiny_run", None)


def parse(*argv):
    return command.parse(["--config=tiny_run.py", "--workdir=w", *argv], *FLAGS)


def problems(*argv):
    with pytest.raises(UserError) as error:
        command.parse(list(argv), *FLAGS)
    return error.value.problems


def config_problems(*settings):
    return problems("--config=tiny_run.py", "--workdir=w", *settings)


def test_flags(write):
    write()
    args = parse("--step", "3", "--json")
    assert (args.workdir, args.step, args.json, args.config.model) == ("w", 3, True, "org/base")
    args = command.parse(["--config", "tiny_run.py:large", "--workdir", "w"], *FLAGS)
    assert (args.config.model, args.step, args.json) == ("org/large", None, False)


def test_overrides_are_typed(write):
    write()
    cfg = parse(
        "--config.lr=3",
        "--config.steps=None",
        "--config.epochs",
        "2.5",
        "--config.optim.decay=1e-1",
        "--config.batching.buckets=32,64",
        "--config.batching.names=(a|b).*,c",
        "--config.batching.sort=false",
        "--config.batching.weights=balanced",
        "--config.batching.table.a=5",
        "--config.evals.val.every=7",
        "--config.data.limit=4",
        "--config.lr_multipliers=(('embed.*', 1),)",
        "--config.mesh.fsdp=2",
    ).config
    assert (cfg.lr, cfg.steps, cfg.epochs, cfg.optim.decay) == (3.0, None, 2.5, 0.1)
    assert (cfg.batching.buckets, cfg.batching.names, cfg.batching.sort) == ((32, 64), ("(a|b).*", "c"), False)
    assert (cfg.batching.weights, cfg.batching.table, cfg.evals["val"].every) == ("balanced", {"a": 5}, 7)
    assert cfg.lr_multipliers == (("embed.*", 1),) and cfg.mesh.fsdp == 2
    assert cfg.data.limit == 4 and cfg.evals["val"].data.limit is None  # one object in the file, two in the run
    assert isinstance(cfg.lr, float)


@pytest.mark.parametrize(
    "text, hint, value",
    [
        ("(32, 64)", tuple[int, ...], (32, 64)),
        ("[32]", tuple[int, ...], (32,)),
        ("32", tuple[int, ...], (32,)),
        ("", tuple[int, ...], ()),
        ("()", tuple[int, ...], ()),
        ("None", tuple[str, ...] | None, None),
        ("none", str | None, None),
        ("a,b", str, "a,b"),
        ("1,2", tuple[float, ...] | str, (1.0, 2.0)),
        ("1", tuple[float, ...] | str, (1.0,)),
        ("toxic", str | tuple[str, ...], "toxic"),
        ("toxic,threat", str | tuple[str, ...], ("toxic", "threat")),
        ("('toxic',)", str | tuple[str, ...], ("toxic",)),
        ("embed,0.5", tuple[str, float], ("embed", 0.5)),
        ("{'a': 1}", dict[str, int], {"a": 1}),
        ("7", int | float, 7),
        ("7.5", int | float, 7.5),
        ("True", bool, True),
    ],
)
def test_texts_are_read_as_the_annotation_says(text, hint, value):
    assert read(text, hint) == value


@pytest.mark.parametrize(
    "text, hint, expected",
    [
        ("x", int | None, "int | None"),
        ("1.5", int, "int"),
        ("1,x", tuple[int, ...], "tuple[int, ...]"),
        ("a", tuple[str, float], "tuple[str, float]"),
        ("maybe", bool, "bool"),
        ("a=1", dict[str, int], "dict[str, int]"),
    ],
)
def test_texts_of_another_type_are_refused(text, hint, expected):
    with pytest.raises(ValueError) as error:
        read(text, hint)
    assert str(error.value) == f"expected {expected}"


@pytest.mark.parametrize(
    "setting, message",
    [
        ("--config.stpes=3", "Config has no field 'stpes'. Did you mean --config.steps?"),
        ("--config.num-epochs=3", "Did you mean --config.epochs?"),
        ("--config.optim.decy=0", "AdamW has no field 'decy'. Did you mean --config.optim.decay?"),
        ("--config.optm.decay=0", "Config has no field 'optm'. Did you mean --config.optim.decay?"),
        ("--config.decay=0", "Config has no field 'decay'. Did you mean --config.optim.decay?"),
        ("--config.optim.warmup=0", "AdamW has no field 'warmup'. Did you mean --config.schedule.warmup?"),
        ("--config.evals.vall.every=3", "config.evals has no entry 'vall'. Did you mean --config.evals.val.every?"),
        ("--config.lr.x=3", "config.lr is 0.001, which has no fields"),
        ("--config.seed=1.5", "--config.seed=1.5: expected int"),
        ("--config.lr=abc", "--config.lr=abc: expected float"),
        ("--config.steps=many", "--config.steps=many: expected int | None"),
        ("--config.optim=lion", "expected Adafactor, AdamW, AdamW8bit, Lion, Muon, SGD, or MODULE:CLASS"),
        ("--config.optim=Linear", "or MODULE:CLASS. Did you mean --config.schedule=Linear?"),
        ("--config.mesh=Mesh", "config.mesh is Mesh(...), which is not chosen by name: set its fields: data, fsdp"),
        ("--config.dtype=float", "config.dtype is 'float', expected auto, float32, bfloat16. Did you mean 'float32'?"),
        ("--config.lr", "--config.lr needs a value"),
        ("--step=two", "--step=two: expected int"),
        ("--stp=2", "there is no flag --stp. Did you mean '--step'?"),
        ("--lr=2", "there is no flag --lr. Did you mean --config.lr?"),
        ("--learning_rate=2", "there is no flag --learning_rate. Did you mean --config.lr?"),
        ("--config.learning_rate=2", "Config has no field 'learning_rate'. Did you mean --config.lr? It has: model"),
        ("--config.weight-decay=2", "Did you mean --config.optim.decay?"),
        ("--config.optim.weight_decay=2", "AdamW has no field 'weight_decay'. Did you mean --config.optim.decay?"),
        ("lr=2", "'lr=2' is not a flag: write --NAME=VALUE"),
    ],
)
def test_one_mistake(write, setting, message):
    write()
    (found,) = config_problems(setting)
    assert message in found


def test_all_mistakes_come_together(write):
    write()
    found = config_problems("--config.lr=abc", "--config.optim.decy=1", "--nothing=1", "--config.batch=0")
    assert len(found) == 4
    assert "--config.optim.decy" in found[2]


def test_missing_flags():
    assert problems("--step=1") == [
        "--config=FILE.py[:ARG] is needed: configuration, or the name of a recipe; --config.FIELD=VALUE sets a field",
        "--workdir=DIR is needed: work directory of the run",
    ]
    optional = (command.CONFIG_OPTIONAL, command.WORKDIR_OPTIONAL)
    assert command.parse([], *optional).config is None
    with pytest.raises(UserError, match="--config=FILE.py is needed"):
        command.parse(["--config.lr=1"], *optional)


@pytest.mark.parametrize(
    "body, message",
    [
        ("def get_config(:", "tiny_run.py, line 27: invalid syntax"),
        ("x = 1", "tiny_run.py has no function get_config"),
        (
            "def get_config(): return {'lr': 1}",
            "get_config returned {'lr': 1} (dict), expected a jaxft.config.run.Config",
        ),
        ("def get_config(): return AdamW(decy=1)", "tiny_run.py, line 27: AdamW has no field 'decy'. Did you mean"),
        ("def get_config(): return nothing", "tiny_run.py, line 27: NameError: name 'nothing' is not defined"),
        ("from jaxft.optim.adamw import Adam", "tiny_run.py, line 27: ImportError: cannot import name 'Adam'"),
        ("def get_config(size, depth): pass", "get_config(size, depth) does not fit the argument; none was given"),
        ("import json\nx = json.loads('{')", "line 28: JSONDecodeError"),
    ],
)
def test_mistakes_in_the_file(write, body, message):
    write(body)
    (found,) = problems("--config=tiny_run.py", "--workdir=w")
    assert message in found


def test_files_that_are_not_there(write, tmp_path):
    write()
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "sst2.py").touch()
    for spec, near in [("tiny_rnu.py", "tiny_run.py"), ("sst2.py", "configs/sst2.py")]:
        assert problems(f"--config={spec}", "--workdir=w") == [
            f"there is no configuration file {spec!r}. Did you mean {near!r}?"
        ]
    assert "Choose a file in it: configs/sst2.py" in problems("--config=configs", "--workdir=w")[0]
    assert problems("--config=tiny_run.py:", "--workdir=w") == [
        "config.model is 'org/', neither a directory nor a hub name such as 'org/name'"
    ]
    write("def get_config(): pass")
    assert "'large' was given" in problems("--config=tiny_run.py:large", "--workdir=w")[0]


def test_classes_of_a_configuration_file_are_found_again(write, tmp_path, monkeypatch):
    write()
    cfg = parse("--config.lr=0.5").config
    save_config(cfg, tmp_path / "config.json")
    assert load_config(tmp_path / "config.json") == cfg
    sys.modules.pop("tiny_run")
    with pytest.raises(UserError, match="'tiny_run' runs its code.*: --allow-import=tiny_run"):
        load_config(tmp_path / "config.json")
    config_file.import_modules("tiny_run")
    assert type(load_config(tmp_path / "config.json").task).__module__ == "tiny_run"
    with pytest.raises(UserError, match="--allow-import=tiny_rum: ModuleNotFoundError: No module named 'tiny_rum'"):
        config_file.import_modules("tiny_run,tiny_rum")


def test_own_functions_by_flags(write, tmp_path):
    """The module is imported before the configuration is checked, which names its function."""
    write()
    (tmp_path / "my_losses.py").write_text("def half(outputs, batch): return 0.5, 1.0\n")
    argv = ["--config=tiny_run.py", "--workdir=w", "--config.loss=my_losses:half"]
    with pytest.raises(UserError, match="config.loss is 'my_losses:half', but a name may run any function"):
        command.parse(argv, command.CONFIG, command.WORKDIR, command.ALLOW_IMPORT)
    argv.append("--allow-import=my_losses")
    cfg = command.parse(argv, command.CONFIG, command.WORKDIR, command.ALLOW_IMPORT).config
    assert as_function(cfg.loss, "config.loss")(None, None) == (0.5, 1.0)
    cfg.metrics = {"half": as_function("my_losses:half", "")}
    assert modules_of(cfg) == {"my_losses", "tiny_run"}
    sys.modules.pop("my_losses")


def test_a_file_does_not_replace_a_module_of_the_same_name(write):
    import optax  # stands for any library

    write(name="optax.py")
    assert command.parse(["--config=optax.py", "--workdir=w"], *FLAGS).config.model == "org/base"
    assert sys.modules["optax"] is optax


def test_help_lists_the_flags():
    text = command.usage("python -m jaxft.train", "Trains.", FLAGS)
    assert text.startswith("usage: python -m jaxft.train --config=FILE.py[:ARG] --workdir=DIR [--step=VALUE] [--json]")
    assert "\nTrains.\n" in text and "work directory of the run" in text


COMMAND = '''"""Tries things."""
import sys
from jaxft.cli import command
from jaxft.config import file as config_file
from jaxft.problems import UserError

def main(args):
    what = {"user": UserError(["a", "b"]), "bug": ZeroDivisionError("oh"),
            "locked": PermissionError(13, "Permission denied", "a/file"), "full": OSError(28, "No space left")}
    if args.do in what:
        raise what[args.do]
    print("result")

command.run(main, __doc__, command.Flag("do", "what to do"))
'''


@pytest.mark.parametrize(
    "argument, code, out, error",
    [
        ("--do=well", 0, "result\n", ""),
        ("--help", 0, "Tries things.", ""),
        ("--do=user", 2, "", "error: 2 problems:\n- a\n- b\n"),
        ("--od=x", 2, "", "error: there is no flag --od. Did you mean '--do'?\n"),
        ("--do=locked", 2, "", "error: a/file: Permission denied: use another place, or make it writable\n"),
        ("--do=full", 1, "", "error: No space left: use another place, or make it writable\n"),
        ("--do=bug", 1, "", "ZeroDivisionError: oh\n"),
    ],
)
def test_exit_codes(tmp_path, argument, code, out, error):
    (tmp_path / "try.py").write_text(COMMAND)
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, tmp_path / "try.py", argument], capture_output=True, text=True, env=env)
    assert done.returncode == code
    assert out in done.stdout and bool(out) == bool(done.stdout)
    assert done.stderr.endswith(error) and ("Traceback" in done.stderr) == (argument == "--do=bug")


def test_a_command_begins_anew_with_a_tuned_allocator(monkeypatch):
    """Once, in a command of jaxft alone, and not where the user has set something; meanwhile signals wait."""
    begun, held, main = [], [], sys.modules["__main__"]

    def execv(*command):
        begun.append(command)
        held.append(signal.pthread_sigmask(signal.SIG_BLOCK, ()))

    monkeypatch.setattr(os, "execv", execv)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "jaxft.train", "--help"])
    monkeypatch.setenv("GLIBC_TUNABLES", "")  # so that it is put back
    monkeypatch.delenv("GLIBC_TUNABLES")
    monkeypatch.setattr(main, "__spec__", SimpleNamespace(name="pytest"))
    tune_allocator()
    assert begun == []
    monkeypatch.setattr(main, "__spec__", SimpleNamespace(name="jaxft.train"))
    tune_allocator()
    assert begun == [(sys.executable, [sys.executable, "-m", "jaxft.train", "--help"])]
    assert os.environ["GLIBC_TUNABLES"] == f"glibc.malloc.hugetlb=1:glibc.malloc.arena_max={os.cpu_count()}"
    tune_allocator()
    assert len(begun) == 1
    assert held == [{signal.SIGTERM, signal.SIGINT}] and signal.pthread_sigmask(signal.SIG_BLOCK, ()) == set()


def test_messages_go_to_what_stderr_is_then(monkeypatch):
    """A live line at the bottom of the terminal puts itself in the place of stderr, so that messages stand above it."""
    handler, screen = command._Stderr(), io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    handler.emit(logging.makeLogRecord({"msg": "a message"}))
    assert screen.getvalue() == "a message\n"


def test_pytorch_stays_out(tmp_path):
    """Neither transformers nor TensorBoard's writer imports it, though both would where they find it."""
    (tmp_path / "tensorboardX.py").write_text(
        """try:
    import torch
except ImportError:
    pass
class SummaryWriter:
    def __init__(self, directory, purge_step): pass
"""
    )
    lines = """import sys
from jaxft.cli.command import _import_transformers
from jaxft.reports.sinks import TensorBoard
_import_transformers()
assert "torch" not in sys.modules
TensorBoard("anywhere", 0)
assert "torch" not in sys.modules
import torch
"""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.getcwd()])}
    subprocess.run([sys.executable, "-c", lines], check=True, env=environment)
