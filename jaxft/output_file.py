"""Files that a command writes: there when all of them is, and refused before anything is computed."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from jaxft.problems import raise_problems


def check_output(*paths: str | None) -> None:
    """Raises UserError for files that cannot be written because of where they are; None is no file."""
    problems = []
    for path in filter(None, paths):
        if Path(path).is_dir():
            problems.append(f"{path} is a directory: name a file in it")
        elif not (folder := Path(path).absolute().parent).is_dir():
            problems.append(f"there is no directory {folder} for {Path(path).name}: make it, or choose another one")
    raise_problems(problems)


@contextlib.contextmanager
def whole(path: str) -> Iterator[str]:
    """What to write to. It becomes `path` when the block ends; where the block fails, `path` stays as it was."""
    check_output(path)
    yield path + ".partial"
    os.replace(path + ".partial", path)
