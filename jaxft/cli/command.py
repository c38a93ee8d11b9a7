"""The common part of all commands: flags, the configuration with its overrides, exit codes."""

import dataclasses
import errno
import importlib
import logging
import sys
import textwrap
import typing
from collections.abc import Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any, NoReturn, TextIO

from jaxft.cli.commands import HELP
from jaxft.cli.field_help import COLUMNS, field_help
from jaxft.config import Config, overrides
from jaxft.config import file as config_file
from jaxft.config.other_trainers import own_name
from jaxft.config.ranges import Count
from jaxft.config.recipes import recipes
from jaxft.host import startup
from jaxft.host.defaults import set_environment
from jaxft.host.memory import collect_rarely, tune_allocator
from jaxft.host.signals import signals
from jaxft.host.torch_free import without_torch
from jaxft.problems import RunStopped, UserError, clipped, near, raise_problems, suggest, truncated_repr


@dataclasses.dataclass(frozen=True)
class Flag:
    """One flag, `--NAME=VALUE`. A bool is `--NAME`, and False if absent."""

    name: str
    help: str
    type: Any = str  # an annotation: int, float, bool, str
    default: Any = None
    required: bool = False
    choices: tuple[str, ...] = ()
    value: str = "VALUE"  # the placeholder of the value in --help
    function: str = ""  # of a Python file that the flag names, or of a recipe
    word: bool = False  # given as a word without a name: TASK
    sets: bool = False  # whether --config.FIELD=VALUE sets fields of what it names
    several: bool = False  # whether a setting may hold several values: the command makes the configurations itself

    @property
    def form(self) -> str:
        """How it is written."""
        return self.value if self.word else f"--{self.name}" if self.type is bool else f"--{self.name}={self.value}"


CONFIG = Flag(
    "config",
    "configuration, or the name of a recipe; --config.FIELD=VALUE sets a field",
    required=True,
    value="FILE.py[:ARG]",
    function="get_config",
    sets=True,
)
SUITE = Flag(
    "suite",
    "tasks, or the name of a recipe; --config.FIELD=VALUE sets a field for all of them",
    required=True,
    value="FILE.py[:DIR]",
    function="get_entries",
    sets=True,
)
CONFIG_SEVERAL = dataclasses.replace(
    CONFIG,
    help="configuration, or the name of a recipe; --config.FIELD=VALUE sets a field, =VALUE,VALUE spans a grid",
    several=True,
)
CONFIG_OPTIONAL = dataclasses.replace(CONFIG, required=False)
WORKDIR = Flag("workdir", "work directory of the run", required=True, value="DIR")
WORKDIR_OPTIONAL = dataclasses.replace(WORKDIR, required=False)
MODEL = Flag("model", "Hugging Face directory, or hub name", required=True, value="DIR")
MODEL_OPTIONAL = dataclasses.replace(MODEL, required=False)
ROWS = Flag("input", "rows, in a file of any format that training reads", required=True, value="FILE")
ALLOW_IMPORT = Flag("allow-import", "modules of your own that the run's configuration uses", value="MODULE[,MODULE]")
BATCH = Flag("batch", "rows computed together", type=Count, default=32)
JSON = Flag("json", "print JSON", bool)

REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)  # the user chose a wrong place: exit code 2
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EIO)  # the machine has a fault: exit code 1


def run(main: Callable[[SimpleNamespace], Any], doc: str, *flags: Flag) -> NoReturn:
    """Parses the command line, calls `main(args)` and exits.

    Exit codes: 0 success, 2 an error in the user's input, 75 interrupted (SIGTERM) and to be run again, 130 Ctrl-C, 1
    any other error.

    A command is a function `main`, and `command.run(main, __doc__, command.CONFIG, command.WORKDIR)` under
    `if __name__ == "__main__"`. `args` has an attribute for each flag ("-" becomes "_"); `args.config` is the checked
    Config, or None, or for CONFIG_SEVERAL its text; `args.settings` are the overrides as they were given. Results
    belong on stdout; logging and messages go to stderr. A UserError is printed without its traceback.
    """
    try:  # everything is inside, because a signal may arrive at any time
        signals.listen()
        argv = sys.argv[1:]
        if set(HELP) & set(argv):
            print(usage(_program(), doc, flags))
            _print_more([word for word in argv if word not in HELP], flags)
            sys.exit(0)
        _prepare()
        args = parse(argv, *flags)
        _import_transformers()
        main(args)
    except BaseException as error:
        sys.stdout.flush()
        if signals.received is not None:  # a library may have turned the signal into another error
            signals.end(signals.received)
        if isinstance(error, UserError):
            print(f"error: {error}", file=sys.stderr)
            sys.exit(2)
        if isinstance(error, RunStopped):
            sys.stderr.write(f"stopped: {error}\n")  # one write, because other threads may write as well
            signals.told = True
            sys.exit(error.exit_code)
        if isinstance(error, OSError) and error.errno in (*REFUSED, *FULL):
            where = f"{error.filename}: " if error.filename else ""
            print(f"error: {where}{error.strerror}: use another place, or make it writable", file=sys.stderr)
            sys.exit(2 if error.errno in REFUSED else 1)
        raise
    sys.exit(0)


def _prepare() -> None:
    """Sets up memory, logging, and environment variables of JAX and transformers that the user has not set."""
    tune_allocator()
    collect_rarely()
    logging.basicConfig(handlers=[_Stderr()], level=logging.WARNING, format="%(message)s", force=True)
    logging.getLogger("jaxft").setLevel(logging.INFO)
    set_environment()


def _import_transformers() -> None:
    with without_torch():
        _ = importlib.import_module("transformers").AutoConfig  # the lazy attribute imports the class


class _Stderr(logging.StreamHandler[TextIO]):
    """Writes to the current sys.stderr, so that messages appear above a live progress line instead of in it."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not signals.is_consequence(record) and bool(super().filter(record))

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        """Ignored: StreamHandler assigns the stream that it was created with."""


def parse(argv: Sequence[str], *flags: Flag) -> SimpleNamespace:
    """The values of the flags. Raises one UserError with all problems of flags, overrides and the configuration."""
    texts, settings, problems = _scan(argv, flags)
    config_file.import_modules(texts.get(ALLOW_IMPORT.name, ""))  # first, since the configuration may need them
    args = SimpleNamespace(**{_attribute(flag.name): flag.default for flag in flags}, settings=settings)
    for flag in flags:
        if flag.type is bool:
            setattr(args, _attribute(flag.name), False)
        if flag.name not in texts:
            problems += [f"{flag.form} is needed: {flag.help}"] if flag.required else []
            continue
        try:
            setattr(args, _attribute(flag.name), _value(flag, texts[flag.name]))
        except ValueError as error:
            problems.append(f"--{flag.name}={clipped(texts[flag.name])}: {error}")
    if "config" in texts and not any(flag.several for flag in flags):
        args.config, found = _configuration(texts["config"], settings)
        problems += found
    elif settings and not any(flag.sets and flag.required for flag in flags):
        problems.append(f"--config.{settings[0][0]} sets a field of a configuration: --config=FILE.py is needed")
    raise_problems(problems)
    return args


def usage(program: str, doc: str, flags: Sequence[Flag]) -> str:
    """The text of `--help`."""
    forms = [flag.form for flag in flags]
    short = [form if flag.required else f"[{form}]" for form, flag in zip(forms, flags, strict=True)]
    width = max(map(len, forms), default=0)
    lines = [f"  {form:{width}}  {_describe(flag)}" for form, flag in zip(forms, flags, strict=True)]
    if any(flag.name == "config" for flag in flags):
        lines.append("\n--config=FILE --help also lists the fields of that configuration.")
    return "\n".join([f"usage: {program} {' '.join(short)}", "", doc.strip(), "", *lines])


def shipped(flag: Flag) -> str:
    """The part of --help on the recipes for a flag."""
    found = recipes(flag.function)
    width = max(map(len, found), default=0)
    lines = [
        textwrap.fill(f"{name:{width}}  {title}", COLUMNS, initial_indent="  ", subsequent_indent=" " * (width + 4))
        for name, title in found.items()
    ]
    return "\n".join(["", f"recipes for --{flag.name}, found from anywhere:", *lines])


def _print_more(argv: Sequence[str], flags: Sequence[Flag]) -> None:
    """What follows the usage: the fields of the configuration that is given, with all its problems, or the recipes.

    Raises UserError with the problems.
    """
    texts, settings, _ = _scan(argv, flags)
    if "config" not in texts:
        for flag in flags:
            if flag.function:
                print(shipped(flag))
        return
    cfg, problems = _configuration(texts["config"], [] if any(flag.several for flag in flags) else settings)
    if cfg is not None:
        print(f"\n{field_help(cfg)}")
    sys.stdout.flush()
    raise_problems(problems)


def _scan(argv: Sequence[str], flags: Sequence[Flag]) -> tuple[dict[str, str], list[tuple[str, str]], list[str]]:
    """Splits the words of the command line into (flag -> text, [(configuration field, text)], problems)."""
    by_name = {flag.name: flag for flag in flags if not flag.word}
    free = [flag.name for flag in flags if flag.word]
    texts: dict[str, str] = {}
    settings: list[tuple[str, str]] = []
    problems: list[str] = []
    words = list(argv)
    while words:
        word = words.pop(0)
        name, equals, text = word.lstrip("-").partition("=")
        setting = name.startswith("config.") and any(flag.sets for flag in flags)
        if not word.startswith("-") and free:
            texts[free.pop(0)] = word
            continue
        if not word.startswith("-"):
            problems.append(f"{truncated_repr(word)} is not a flag: write --NAME=VALUE")
            continue
        if not setting and name not in by_name:
            problems.append(f"there is no flag --{clipped(name)}.{_suggestion(name, by_name)}")
            if not equals and words and not words[0].startswith("--"):
                words.pop(0)
            continue
        if not equals and (setting or by_name[name].type is not bool):
            if not words or words[0].startswith("--"):
                problems.append(f"--{name} needs a value: --{name}=VALUE")
                continue
            text = words.pop(0)
        if setting:
            settings.append((name.removeprefix("config."), text))
        else:
            texts[name] = text
    return texts, settings, problems


def _suggestion(name: str, by_name: Mapping[str, Flag]) -> str:
    """A flag similar to `name`, or the field of the configuration with this name: --config.lr for --lr."""
    fields = [field.name for field in dataclasses.fields(Config)] if "config" in by_name else []
    other = own_name(name) if fields else None
    field = [other] if other else near(name, fields, 1, 0.999)
    return f" Did you mean --config.{field[0]}?" if field else suggest(f"--{name}", [f"--{known}" for known in by_name])


def _value(flag: Flag, text: str) -> Any:
    if flag.type is bool and not text:
        return True
    hint = flag.type
    if typing.get_origin(hint) is typing.Annotated:
        hint, limits = typing.get_args(hint)
        value = overrides.parse(text, hint)
        if expected := limits.problem(value):
            raise ValueError(f"expected {expected}")
        return value
    value = overrides.parse(text, hint)
    if flag.choices and value not in flag.choices:
        raise ValueError(f"expected {', '.join(flag.choices)}.{suggest(text, flag.choices)}")
    return value


def configuration(spec: str, settings: list[tuple[str, str]]) -> Config:
    """The checked configuration of `spec`, with overrides (field, text). Raises UserError."""
    cfg, problems = _configuration(spec, settings)
    if cfg is None or problems:
        raise UserError(problems)
    return cfg


def _configuration(spec: str, settings: list[tuple[str, str]]) -> tuple[Config | None, list[str]]:
    try:
        cfg = overrides.unshared(config_file.load(spec))
    except UserError as error:
        return None, error.problems
    problems = overrides.override(cfg, settings)
    return cfg, problems + cfg.problems()


def _describe(flag: Flag) -> str:
    choices = f" ({', '.join(flag.choices)})" if flag.choices else ""
    return flag.help + choices + (f" (default: {flag.default})" if flag.default is not None else "")


def _attribute(name: str) -> str:
    return name.replace("-", "_")


def _program() -> str:
    """The command as it was given."""
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is None:
        return f"python {sys.argv[0]}"
    if spec.name in sys.orig_argv or not spec.name.startswith("jaxft."):
        return f"python -m {spec.name}"
    return f"{'python -m ' * startup.is_module(sys.orig_argv)}jaxft {spec.name.removeprefix('jaxft.')}"
