"""Join the processes of a run that spans several machines."""

import atexit
import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import jax

from jaxft.host.signals import Terminated, signals
from jaxft.host.strict_json import dumps
from jaxft.parallel.peers import ORDERLY, Peers, after_aborts
from jaxft.problems import RunStopped, UserError, raise_problems

NUMBERS = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
KEY = "jaxft/peers"
log = logging.getLogger("jaxft")


@contextlib.contextmanager
def distributed_session(workdir: str | None = None) -> Iterator[None]:
    """Be one of the run's processes: none of them outlives the others. See `start` and `Peers`.

    If another process dies, this one's last message names the step from which `workdir` resumes.
    """
    signals.advice = lambda: advice(workdir) if workdir is not None else ""
    start()
    peers = _meet(workdir) if jax.distributed.is_initialized() else None
    if peers is not None:
        signals.take_back()  # JAX took SIGTERM; it gets it while a run can stop in good order
        signals.farewell.append(partial(peers.leave, asked=True))
    try:
        yield
    except BaseException as error:
        if peers is not None:
            _leave(peers, error)
        raise
    if peers is not None:
        peers.leave(0)


def start() -> None:
    """Connect to the run's other processes, if the launcher started any; call this before any use of a device.

    With JAXFT_DISTRIBUTED=1 JAX asks the cluster: on TPU pods, under Slurm and Open MPI. Elsewhere
    JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID say it. Raises UserError if
    these are incomplete.
    """
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    if address is None and os.environ.get("JAXFT_DISTRIBUTED", "0") != "1":
        return
    # With two CPU programs in flight, processes may start them in different orders, and their all-reduces hang or fail.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    try:
        # In a known cluster JAX fills in what is None.
        count, number = _numbers()
        jax.distributed.initialize(address, count, number)
    except ValueError as error:
        raise UserError(
            f"the other processes of this run cannot be found ({error}): set JAX_COORDINATOR_ADDRESS=HOST:PORT, "
            "JAX_NUM_PROCESSES and JAX_PROCESS_ID, or unset JAXFT_DISTRIBUTED to train on this machine alone"
        ) from error
    if jax.default_backend() == "cpu":
        # A program from the cache and one that was just compiled may order their all-reduces differently, and processes
        # whose all-reduces do not match are aborted.
        jax.config.update("jax_enable_compilation_cache", False)
    if jax.process_index() != 0:
        logging.getLogger("jaxft").setLevel(logging.WARNING)  # process 0 logs for all


def _meet(workdir: str | None) -> Peers | None:
    from jax._src.distributed import global_state as cluster  # its key-value store has no public interface

    number, count, client = jax.process_index(), jax.process_count(), cluster.client
    host = (cluster.coordinator_address or "").rpartition(":")[0].strip("[]")

    def publish(port):
        client.key_value_set(KEY, port)

    def find():
        return client.blocking_key_value_get(KEY, 60_000)

    try:
        peers = Peers(number, count, host, publish, find, lambda: advice(workdir))
    except OSError as error:
        log.warning("the processes cannot watch each other (%s): one that dies is noticed after 100 s", error)
        return None
    peers.handler = after_aborts(peers.wait)
    return peers


def _leave(peers: Peers, error: BaseException) -> None:
    if isinstance(error, KeyboardInterrupt | Terminated):
        return  # `signals.farewell` tells the other processes
    code = 2 if isinstance(error, UserError) else error.exit_code if isinstance(error, RunStopped) else 1
    if not isinstance(error, UserError | RunStopped):
        peers.wait()  # if another process died, that is the reason: this one ends here, with a message
    peers.leave(code)
    if code not in ORDERLY:
        # Otherwise JAX waits for the others before the process ends.
        atexit.register(_end, code)


def _end(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def advice(workdir: str | None) -> str:
    """What to do after a process has died."""
    again = "run the same command again"
    if workdir is None:
        return again
    steps = [int(folder.name) for folder in Path(workdir, "checkpoints").glob("*") if folder.name.isdecimal()]
    return f"{again}: it goes on from step {max(steps)}" if steps else f"{again}: it begins anew, no step was saved"


def _numbers() -> list[int | None]:
    texts = [os.environ.get(name) for name in NUMBERS]
    raise_problems(
        f"{name}={text} is not a whole number"
        for name, text in zip(NUMBERS, texts, strict=True)
        if text is not None and not text.isdecimal()
    )
    return [None if text is None else int(text) for text in texts]


def print_json(record: dict) -> None:
    """Print a line of a command's output, in process 0 only."""
    if jax.process_index() == 0:
        print(dumps(record), flush=True)
