"""Stop in good order when the machine is taken away: after the step, or the evaluation batch, in progress."""

import contextlib
import threading
from collections.abc import Iterable, Iterator

import jax
from jax.experimental import multihost_utils

from jaxft.host.signals import signals


class Preempted(Exception):
    """The run was asked to end."""


class PreemptionHandler:
    """Whether it is time to stop: `asked` says so of one process; several of them agree on a step."""

    def __init__(self, asked: threading.Event | None = None):
        self.asked, self.calls = asked or threading.Event(), 0

    def due(self) -> bool:
        """Whether to stop now; every process is to call this equally often, after steps and between batches."""
        self.calls += 1
        several = jax.process_count() > 1
        return multihost_utils.reached_preemption_sync_point(self.calls) if several else self.asked.is_set()

    def between(self, batches: Iterable) -> Iterator:
        """The same batches; raises Asked before one of them where it is time to stop."""
        for batch in batches:
            if self.due():
                raise Preempted
            yield batch


@contextlib.contextmanager
def stoppable() -> Iterator[PreemptionHandler]:
    """While it is open, SIGTERM is a request and no longer the end.

    With several processes JAX listens as well: where one of them gets the signal, all of them agree on a step.
    """
    if jax.process_count() > 1 and signals.pass_on is None:  # not a command: JAX listens alone
        yield PreemptionHandler()
        return
    with signals.deferred() as asked:
        yield PreemptionHandler(asked)
