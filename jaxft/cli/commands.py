"""The commands of jaxft: their list, and running one by its name."""

import ast
import runpy
import sys
from pathlib import Path
from typing import NoReturn

from jaxft.problems import clipped, suggest

# The modules jaxft.NAME that are commands, in the order in which they are listed.
COMMANDS = (
    *(
        "new",
        "train",
        "sweep",
        "evaluate",
        "predict",
        "export",
        "search",
        "explain",
        "bias",
        "suite",
        "parity",
        "bench",
    ),
)
HELP = ("--help", "-h", "-help")


def run(program: str) -> NoReturn:
    """Runs the command that the first word of the command line names, as `python -m jaxft.NAME` does, and exits.

    Without a command, or with --help, prints the list of them; `program` is how jaxft was started.
    """
    name, *rest = sys.argv[1:] or ["--help"]
    if name in HELP:
        print(listing(program))
        sys.exit(0)
    if name not in COMMANDS:
        print(f"error: {unknown(name, program)}", file=sys.stderr)
        sys.exit(2)
    sys.argv[1:] = rest
    runpy.run_module(f"jaxft.{name}", run_name="__main__", alter_sys=True)
    sys.exit(0)


def listing(program: str) -> str:
    """All commands with what they do: the first words of their modules' docstrings. No command is imported."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {summary(name)}" for name in COMMANDS]
    usage = f"usage: {program} COMMAND [--FLAG=VALUE ...]"
    return "\n".join([usage, "", *lines, "", f"{program} COMMAND --help lists the flags of a command."])


def summary(name: str) -> str:
    """What a command does, in a few words."""
    file = Path(__file__).parents[1] / f"{name}.py"
    doc = ast.get_docstring(ast.parse(file.read_bytes())) or ""
    return doc.partition(":")[0]


def unknown(name: str, program: str) -> str:
    """The message for a word that is not a command."""
    if name.startswith("-"):
        return f"{clipped(name)} comes before the command: {program} COMMAND {clipped(name)}"
    return f"there is no command {clipped(name)!r}.{suggest(name, COMMANDS)} Commands: {', '.join(COMMANDS)}."
