"""The lock of a work directory, and the check that a run can read and write what it holds."""

import contextlib
import errno
import fcntl
import logging
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import jax

from jaxft.problems import UserError, raise_problems

log = logging.getLogger("jaxft")

FILES = ("config.json", "metrics.jsonl", "pictures.jsonl", "summary.json", "origin.json", "report.html")
FOLDERS = ("checkpoints", "tensorboard", "predictions", "model")


@contextlib.contextmanager
def workdir_lock(workdir: Path) -> Iterator[None]:
    """Locks the work directory. The lock ends with the process, however that ends.

    Raises UserError if another run has the lock, or if something in the directory cannot be read or written.
    """
    if jax.process_index() != 0:
        yield
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        # O_NOFOLLOW and no O_TRUNC: a link could lead to a file of somebody else.
        file = os.open(workdir / ".running", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        reason = ".running is a symbolic link: remove it" if error.errno == errno.ELOOP else error.strerror
        raise UserError(f"{workdir} cannot be a work directory ({reason}): use another --workdir") from None
    with open(file, "rb"):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{workdir} is in use by another run: wait for it, or use another --workdir") from None
        except OSError as error:  # some network file systems have no locks
            log.warning("%s cannot be locked (%s): make sure that only one run uses it", workdir, error)
        raise_problems(entry_problems(workdir))
        yield


def entry_problems(workdir: Path) -> list[str]:
    """The files and folders of a work directory that a run cannot use, and why."""
    problems = [] if os.access(workdir, os.W_OK | os.X_OK) else [f"{workdir} cannot be written (Permission denied)"]
    for name in (*FILES, *FOLDERS):
        path, folder = workdir / name, name in FOLDERS
        if not os.path.lexists(path):
            continue
        try:
            kind = path.stat().st_mode
        except OSError as error:
            problems.append(f"{path} cannot be read ({error.strerror})")
            continue
        if not (stat.S_ISDIR(kind) if folder else stat.S_ISREG(kind)):
            problems.append(f"{path} is not a {'directory' if folder else 'file'}: remove it")
        elif not os.access(path, os.R_OK | (os.W_OK | os.X_OK if folder else 0)):
            problems.append(f"{path} cannot be {'written' if folder else 'read'} (Permission denied)")
    return [f"{problem}, or use another --workdir" for problem in problems]
