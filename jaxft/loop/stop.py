"""Stop in good order when the machine is taken away: after the step, or the evaluation batch, in progress."""

import signal
import threading
from collections.abc import Iterable, Iterator

import jax
from jax.experimental import multihost_utils


class Asked(Exception):
    """The run was asked to end."""


class Stop:
    """While it is open, SIGTERM is a request and no longer the end.

    With several processes JAX listens itself: where one of them gets the signal, all of them agree on a step.
    """

    def __init__(self):
        self.asked, self.calls = False, 0
        self.listens = jax.process_count() == 1 and threading.current_thread() is threading.main_thread()

    def __enter__(self):
        if self.listens:
            self.former = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *error):
        if self.listens:
            signal.signal(signal.SIGTERM, self.former)

    def due(self) -> bool:
        """Whether to stop now; every process is to call this equally often, after steps and between batches."""
        self.calls += 1
        return multihost_utils.reached_preemption_sync_point(self.calls) if jax.process_count() > 1 else self.asked

    def between(self, batches: Iterable) -> Iterator:
        """The same batches; raises Asked before one of them where it is time to stop."""
        for batch in batches:
            if self.due():
                raise Asked
            yield batch

    def _ask(self, number, frame):
        self.asked = True
