"""Room on disk: asked for before the first step, and what is said when it runs out all the same."""

import contextlib
import errno
import logging
import os
import shutil
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
WORDS = {"No space left": errno.ENOSPC, "Disk quota exceeded": errno.EDQUOT, "Read-only file system": errno.EROFS}
ANYWHERE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # the others may be of a file that is read, which is named then


def check_space(workdir: Path, checkpoint: int, keep: int, model: int) -> None:
    """Compare what a run will write with what is free there; sizes in bytes, `keep` a number of checkpoints.

    An old checkpoint goes only when its successor is complete, so there is one more for a while. Raises UserError where
    not even one and the model fit, and warns where some do.
    """
    present = sum(file.stat().st_size for file in (workdir / "checkpoints").rglob("*") if file.is_file())
    free = shutil.disk_usage(workdir).free + present
    least, most = checkpoint + model, checkpoint * (keep + 1) + model
    parts = f"a checkpoint of {_size(checkpoint)} and a model of {_size(model)}"
    if free < least:
        raise UserError(
            f"{workdir} has {_size(free)} free, and the run needs {_size(least)} ({parts}): make room, or choose "
            "another --workdir"
        )
    if free < most:
        log.warning(
            "%s has %s free, and the run may need %s (%s, %d kept and one in the making): make room, or lower "
            "config.save.keep",
            workdir,
            _size(free),
            _size(most),
            parts,
            keep,
        )


@contextlib.contextmanager
def report_disk_errors(workdir: Path):
    """A failure to write that is the disk's becomes RunStopped; every other error passes."""
    try:
        yield
    except (UserError, RunStopped):
        raise
    except Exception as error:
        code = _disk_error(error, str(workdir.absolute()))
        if code is None:
            raise
        raise RunStopped(
            f"{workdir} cannot be written ({REASONS[code]}). Checkpoints that were complete are untouched: make room "
            "there and run the same command again"
        ) from error


def _disk_error(error: BaseException | None, workdir: str) -> int | None:
    """The number of the disk's error among an exception and its causes; libraries give some as text only."""
    while error is not None:
        code = getattr(error, "errno", None)
        if code in ANYWHERE or code in REASONS and os.path.abspath(str(error.filename or "/")).startswith(workdir):
            return code
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
