"""Writing output files: atomically, never through a symbolic link, and checked before anything is computed."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from jaxft.problems import raise_problems


def check_output(*paths: str | None) -> None:
    """Raises UserError for files that cannot be written because of their directory. None is skipped."""
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
    """Yields the name of a temporary file, which replaces `path` at the end. After an error `path` is unchanged."""
    check_output(path)
    partial = Path(path + ".partial")
    partial.unlink(missing_ok=True)  # it might be a link
    try:
        yield str(partial)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    os.replace(partial, path)


def replace_bytes(file: Path, content: bytes) -> None:
    """Replaces the file atomically: a reader sees the old or the new one. A link is replaced, its target is not."""
    partial = file.with_name(f"{file.name}.partial")
    partial.unlink(missing_ok=True)
    with open(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), "wb") as opened:
        opened.write(content)
    os.replace(partial, file)
