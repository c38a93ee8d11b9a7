"""One run at a time in a work directory."""

import contextlib
import fcntl
import logging
from pathlib import Path

import jax

from jaxft.problems import UserError

log = logging.getLogger("jaxft")


@contextlib.contextmanager
def claim(workdir: Path):
    """Hold the work directory while inside; the claim ends with the process, however it ends.

    Raises UserError if another run holds it, or if it cannot be written.
    """
    if jax.process_index() != 0:
        yield
        return
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        file = open(workdir / ".running", "w")
    except OSError as error:
        raise UserError(f"{workdir} cannot be a work directory ({error.strerror}): choose another --workdir") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"{workdir} is in use by another run: wait for it, or choose another --workdir") from None
        except OSError as error:  # some network file systems have no locks
            log.warning("%s cannot be locked (%s): see to it that only one run uses it", workdir, error)
        yield
