"""Disk space: checked before the first step, and named as the reason when a write fails."""

import contextlib
import errno
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from jaxft.problems import RunStopped, UserError

log = logging.getLogger("jaxft")

REASONS = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EROFS: "it is read-only now",
    errno.EIO: "the disk does not answer",
    errno.EACCES: "permission was denied",
    errno.EPERM: "permission was denied",
}
# Of errors that a library reports as text only.
WORDS = {"No space left": errno.ENOSPC, "Disk quota exceeded": errno.EDQUOT, "Read-only file system": errno.EROFS}
ANYWHERE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # others are the disk's only if the file is in the work directory


def check_space(workdir: Path, checkpoint: int, keep: int, model: int) -> None:
    """Compares what a run will write with the free space: `checkpoint` and `model` are bytes, `keep` checkpoints stay.

    An old checkpoint is deleted only when its successor is complete, so that there are keep + 1 for a while. Raises
    UserError if one checkpoint and the model do not fit, and warns if not all do.
    """
    present = sum(file.stat().st_size for file in (workdir / "checkpoints").rglob("*") if file.is_file())
    free = shutil.disk_usage(workdir).free + present
    least, most = checkpoint + model, checkpoint * (keep + 1) + model
    needed = f"a checkpoint of {_size(checkpoint)} and a model of {_size(model)}"
    if free < least:
        raise UserError(
            f"{workdir} has {_size(free)} free, and the run needs {_size(least)} ({needed}): make room, or choose "
            "another --workdir"
        )
    if free < most:
        log.warning(
            "%s has %s free, and the run may need %s (%s, %d kept and one in the making): make room, or lower "
            "config.save.keep",
            workdir,
            _size(free),
            _size(most),
            needed,
            keep,
        )


@contextlib.contextmanager
def report_disk_errors(workdir: Path) -> Iterator[None]:
    """Turns errors of the disk into RunStopped; all others pass unchanged."""
    try:
        yield
    except (UserError, RunStopped):
        raise
    except Exception as error:
        code = _disk_error(error, str(workdir.absolute()))
        if code is None:
            raise
        raise RunStopped(
            f"{workdir} cannot be written ({REASONS[code]}). Complete checkpoints are untouched: make room "
            "there and run the same command again"
        ) from error


def _disk_error(error: BaseException | None, workdir: str) -> int | None:
    """The errno of the disk's error among an exception and its causes."""
    while error is not None:
        if isinstance(error, OSError):
            file = os.path.abspath(str(error.filename or "/"))
            if error.errno in ANYWHERE or error.errno in REASONS and file.startswith(workdir):
                return error.errno
        for words, code in WORDS.items():
            if words in str(error):
                return code
        error = error.__cause__ or error.__context__
    return None


def _size(count: int) -> str:
    """1.5 GB"""
    for unit, size in (("GB", 10**9), ("MB", 10**6)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count / 1000:.0f} kB"
