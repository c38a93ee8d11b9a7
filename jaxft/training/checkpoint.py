"""Checkpoints of a run, written by Orbax: asynchronously, and complete or not at all.

`checkpoints/STEP/` holds `state` (TrainState: trained parameters, optimizer, step) and `run` (JSON: the configuration,
metrics since the last log point, the latest evaluation). The order of the data is a function of seed and step, so no
other state of the data pipeline is saved.
"""

import contextlib
import copy
import functools
import json
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxft.config.former_names import PARAMETERS
from jaxft.host.signals import signals
from jaxft.training.best import Best
from jaxft.training.former_parameters import FORMER, has_former_parameters, with_paths

log = logging.getLogger("jaxft")

# Bytes from which on replicas of an array write a slice each, instead of one of them the array. XLA compiles a program
# for every slice: with all arrays sliced, the first save of 24 small ones on eight devices took 7.6 s, not 0.04 s.
SLICE_BYTES = 2**24


class KeepBestAndLast:
    """Orbax's preservation policy: `keep` checkpoints, with the best and the newest. With keep=1 two may remain."""

    def __init__(self, keep: int, best: Best):
        self.keep, self.best = keep, best

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any = None) -> list[bool]:
        """For each checkpoint, the oldest first, whether it stays."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        chosen = set(steps[-1:])
        best = self.best.step({c.step: (c.metrics or {}).get(self.best.metric) for c in checkpoints})
        if best is not None:
            chosen.add(best)
        for step in reversed(steps):
            if len(chosen) < self.keep:
                chosen.add(step)
        return [step in chosen for step in steps]


class Checkpoints:
    """The checkpoints of one work directory."""

    def __init__(self, workdir: str | Path, keep: int, best: Best):
        self.keep, self.ranking = keep, best
        self.directory = Path(workdir).absolute() / "checkpoints"
        self._open()

    def _open(self) -> None:
        best = self.ranking.metric
        options = ocp.CheckpointManagerOptions(
            preservation_policy=KeepBestAndLast(self.keep, self.ranking),
            # The policy decides, but without this function Orbax does not write the metrics.
            best_fn=None if best is None else lambda metrics: metrics.get(best),
            cleanup_tmp_directories=True,
        )
        arrays = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=SLICE_BYTES)
        kinds = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
        handlers = {
            "state": ocp.PyTreeCheckpointHandler(type_handler_registry=kinds),
            "run": ocp.JsonCheckpointHandler(),
        }
        self.manager = ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)

    def save(self, step: int, state: Any, run: dict, metrics: dict[str, float]) -> None:
        """Starts writing; returns once the device arrays and `run` are copied. `metrics` rank the checkpoint."""
        if step in self.steps():  # saved before its evaluation was complete, hence without these metrics
            self.manager.delete(step)
        # Orbax writes JSON in the background, while the next steps change the lists of a run.
        record = ocp.args.JsonSave(copy.deepcopy(run))
        items = ocp.args.Composite(state=ocp.args.PyTreeSave(state), run=record)
        self.manager.save(step, args=items, metrics=metrics or None, force=True)

    def restore(self, step: int, abstract: Any) -> tuple[Any, dict]:
        """(state, run) of one step; `abstract` gives shapes, dtypes and placements."""
        former = has_former_parameters(self.manager.item_metadata(step)["state"].tree)
        abstract = with_paths(abstract, FORMER) if former else abstract
        placed = ocp.checkpoint_utils.construct_restore_args(abstract)
        state = ocp.args.PyTreeRestore(abstract, restore_args=placed)
        items = ocp.args.Composite(state=state, run=ocp.args.JsonRestore())
        restored = self.manager.restore(step, args=items)
        return with_paths(restored["state"], PARAMETERS) if former else restored["state"], restored["run"]

    def restore_latest(self, abstract: Any) -> tuple[int, Any, dict] | None:
        """(step, state, run) of the newest readable checkpoint. Unreadable ones are moved aside with a warning."""
        _ignore_unfinished_reads()
        for step in sorted(self.steps(), reverse=True):
            try:
                return step, *self.restore(step, abstract)
            except Exception as error:  # whatever a damaged file raises, an older checkpoint is the answer
                if signals.received is not None:  # a library may turn the signal into an error
                    raise
                reason = _first_line(error)
            self._move_aside(step, reason)
        return None

    def record(self, step: int) -> dict:
        """The `run` of one step."""
        restored = self.manager.restore(step, args=ocp.args.Composite(run=ocp.args.JsonRestore()))
        return restored["run"]

    def records(self) -> list[dict]:
        """The `run` of each step whose file can be read, the oldest first. Not a collective operation."""
        found = []
        for step in sorted(self.steps()):
            with contextlib.suppress(OSError, ValueError):
                found.append(json.loads((self.directory / str(step) / "run" / "metadata").read_text()))
        return found

    def steps(self) -> list[int]:
        """The steps that have a checkpoint."""
        return list(self.manager.all_steps())

    def chosen(self) -> tuple[int | None, float | None]:
        """(step, score) of the best checkpoint; if no score is finite, the newest one and None."""
        metric, steps = self.ranking.metric, self.steps()
        scores = {step: (self.manager.metrics(step) or {}).get(metric) for step in steps}
        best = self.ranking.step(scores)
        if best is not None:
            return best, scores[best]
        if metric is not None and steps:
            log.warning("no checkpoint has a finite %s: the newest, of step %d, is taken", metric, max(steps))
        return max(steps, default=None), None

    def wait(self) -> None:
        """Blocks until everything is on disk; raises errors of writing."""
        self.manager.wait_until_finished()

    def close(self) -> None:
        """Waits, and ends Orbax's threads."""
        self.manager.close()

    def _move_aside(self, step: int, reason: str) -> None:
        aside, number = self.directory / f"{step}.unreadable", 0
        while aside.exists():
            number += 1
            aside = aside.with_suffix(f".unreadable{number}")
        log.warning("checkpoint %d cannot be read and was moved to %s: %s", step, aside, reason)
        self.manager.close()
        if jax.process_index() == 0:
            (self.directory / str(step)).rename(aside)
        self._open()


@functools.cache  # once for the process
def _ignore_unfinished_reads() -> None:
    """Suppresses the tracebacks of reads that Orbax leaves pending when another read of the same checkpoint fails.

    They end after the event loop is closed, or never, and would print dozens of "exception ignored".
    """
    hook = sys.unraisablehook

    def filtered(unraisable: Any) -> None:
        read = getattr(unraisable.object, "__name__", "") == "_read_array_index_and_device_put"
        ended = unraisable.object is None and str(unraisable.exc_value) == "Event loop is closed"
        if not (read or ended):
            hook(unraisable)

    sys.unraisablehook = filtered


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
