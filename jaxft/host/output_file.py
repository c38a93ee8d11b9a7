"""Files that are written: there when all of them is, never through a link, refused before anything is computed."""

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
            problems.append(f"there is no directory {folder} for {Path(path).name}: make it, or use another one")
        elif not os.access(folder, os.W_OK | os.X_OK):
            problems.append(f"{folder} cannot be written: use another place for {Path(path).name}")
    raise_problems(problems)


@contextlib.contextmanager
def atomic_write(path: str) -> Iterator[str]:
    """What to write to. It becomes `path` when the block ends; where the block fails, `path` stays as it was."""
    check_output(path)
    partial = Path(path + ".partial")
    partial.unlink(missing_ok=True)  # which might be a link
    try:
        yield str(partial)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    os.replace(partial, path)


def replace_bytes(file: Path, content: bytes) -> None:
    """In one move: a reader sees the former file or the new one. A symbolic link is replaced, not what it points at."""
    partial = file.with_name(f"{file.name}.partial")
    partial.unlink(missing_ok=True)
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as opened:
        opened.write(content)
    os.replace(partial, file)
