"""Stopping cleanly on SIGTERM, as before a preemption: after the step, or the evaluation batch, in progress."""

import contextlib
import threading
from collections.abc import Iterable, Iterator

import jax
from jax.experimental import multihost_utils

from jaxft.host.signals import signals


class Preempted(Exception):
    """The run received SIGTERM."""


class PreemptionHandler:
    """Says whether to stop. A single process stops when `asked` is set; several processes agree on a step."""

    def __init__(self, asked: threading.Event | None = None):
        self.asked, self.calls = asked or threading.Event(), 0

    def due(self) -> bool:
        """Whether to stop now. Every process must call this equally often: after each step and between batches."""
        self.calls += 1
        several = jax.process_count() > 1
        return multihost_utils.reached_preemption_sync_point(self.calls) if several else self.asked.is_set()

    def between(self, batches: Iterable) -> Iterator:
        """The same batches; raises Preempted between them when it is time to stop."""
        for batch in batches:
            if self.due():
                raise Preempted
            yield batch


@contextlib.contextmanager
def stoppable() -> Iterator[PreemptionHandler]:
    """Inside this context SIGTERM asks the run to stop instead of ending the process.

    With several processes JAX listens as well: if one of them gets the signal, all agree on a step.
    """
    if jax.process_count() > 1 and signals.pass_on is None:  # not a command: JAX listens alone
        yield PreemptionHandler()
        return
    with signals.deferred() as asked:
        yield PreemptionHandler(asked)
