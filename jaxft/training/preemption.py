"""Stopping cleanly on SIGTERM, as before a preemption, and Ctrl-C, after the step or evaluation batch in progress."""

import contextlib
from collections.abc import Callable, Iterable, Iterator

import jax
from jax.experimental import multihost_utils

from jaxft.host.signals import Request, signals


class Preempted(Exception):
    """The run received SIGTERM or Ctrl-C."""


class PreemptionHandler:
    """Says whether to stop. A single process stops when `asked` is set; several processes agree on a step."""

    def __init__(self, asked: Request | None = None):
        self.asked, self.calls = asked or Request(), 0

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
def stoppable(unsaved: Callable[[], bool]) -> Iterator[PreemptionHandler]:
    """Inside this context SIGTERM and the first Ctrl-C ask the run to stop instead of ending the process.

    While it compiles they end the process, unless `unsaved()` says that there are steps to save.
    With several processes JAX listens to SIGTERM as well: if one of them gets it, all agree on a step. Ctrl-C ends
    these.
    """
    if jax.process_count() > 1 and signals.pass_on is None:  # not a command: JAX listens alone
        yield PreemptionHandler()
        return
    with signals.deferred(jax.process_count() == 1, unsaved) as asked:
        yield PreemptionHandler(asked)
