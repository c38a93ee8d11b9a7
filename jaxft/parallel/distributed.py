"""Join the processes of a run that spans several machines."""

import json
import logging
import os

import jax

from jaxft.problems import UserError, raise_problems

NUMBERS = ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def start() -> None:
    """Connect to the other processes where the launcher says that there are some; comes before any use of a device.

    JAXFT_DISTRIBUTED=1 asks the cluster: on TPU pods, under Slurm and Open MPI, JAX finds the others by itself.
    Elsewhere JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID say it. Raises
    UserError if that is not enough.
    """
    address = os.environ.get("JAX_COORDINATOR_ADDRESS")
    if address is None and os.environ.get("JAXFT_DISTRIBUTED", "0") != "1":
        return
    try:
        # Where a cluster is known its own numbers fill what is None.
        jax.distributed.initialize(address, *_numbers())
    except ValueError as error:
        raise UserError(
            f"the other processes of this run cannot be found ({error}): set JAX_COORDINATOR_ADDRESS=HOST:PORT, "
            "JAX_NUM_PROCESSES and JAX_PROCESS_ID, or unset JAXFT_DISTRIBUTED to train on this machine alone"
        ) from error
    if jax.process_index() != 0:
        logging.getLogger("jaxft").setLevel(logging.WARNING)  # the first process says it for all


def _numbers() -> list[int | None]:
    texts = [os.environ.get(name) for name in NUMBERS]
    raise_problems(
        f"{name}={text} is no number of processes, or of one of them"
        for name, text in zip(NUMBERS, texts, strict=True)
        if text is not None and not text.isdecimal()
    )
    return [None if text is None else int(text) for text in texts]


def print_json(record: dict) -> None:
    """A line of a command's output, once for all processes."""
    if jax.process_index() == 0:
        print(json.dumps(record), flush=True)
