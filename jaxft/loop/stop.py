"""Stop in good order when the machine is taken away: SIGTERM ends a run after the step in progress."""

import signal
import threading

import jax
from jax.experimental import multihost_utils


class Stop:
    """While it is open, SIGTERM is a request and no longer the end.

    With several processes JAX listens itself: where one of them gets the signal, all of them agree on a step.
    """

    def __init__(self):
        self.asked = False
        self.listens = jax.process_count() == 1 and threading.current_thread() is threading.main_thread()

    def __enter__(self):
        if self.listens:
            self.former = signal.signal(signal.SIGTERM, self._ask)
        return self

    def __exit__(self, *error):
        if self.listens:
            signal.signal(signal.SIGTERM, self.former)

    def due(self, step: int) -> bool:
        """Whether to stop after this step; to be asked after every step."""
        return multihost_utils.reached_preemption_sync_point(step) if jax.process_count() > 1 else self.asked

    def _ask(self, number, frame):
        self.asked = True
