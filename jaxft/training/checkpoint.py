"""Checkpoints of a run: Orbax, asynchronous, complete or absent.

`checkpoints/STEP/` holds `state` (TrainState: trained parameters, optimizer, step) and `run` (JSON: the configuration,
metrics since the last log point, the latest evaluation). The order of the data is a function of seed and step, so the
step is its whole position.
"""

import contextlib
import functools
import json
import logging
import sys
from pathlib import Path
from typing import Any

import jax
import orbax.checkpoint as ocp

from jaxft.host.signals import signals
from jaxft.training.best import Best

log = logging.getLogger("jaxft")

# Of an array that several devices hold, each writes a share, if a share has so many bytes. XLA compiles a slice for
# every share: with all arrays cut, the first save of 24 small ones on eight devices took 7.6 s instead of 0.04 s.
SHARE = 2**24


class KeepBestAndLast:
    """Keep `keep` checkpoints: the best by a metric, and the newest; with keep=1 these may be two."""

    def __init__(self, keep: int, best: Best):
        self.keep, self.best = keep, best

    def should_preserve(self, checkpoints, *, context=None) -> list[bool]:
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

    def __init__(self, workdir, keep: int, best: Best):
        self.keep, self.ranking = keep, best
        self.directory = Path(workdir).absolute() / "checkpoints"
        self._open()

    def _open(self):
        best = self.ranking.metric
        options = ocp.CheckpointManagerOptions(
            preservation_policy=KeepBestAndLast(self.keep, self.ranking),
            # The policy chooses; but without a function here Orbax does not write the metrics.
            best_fn=None if best is None else lambda metrics: metrics.get(best),
            cleanup_tmp_directories=True,
        )
        arrays = ocp.type_handlers.ArrayHandler(min_slice_bytes_for_replica_parallel=SHARE)
        kinds = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
        handlers = {
            "state": ocp.PyTreeCheckpointHandler(type_handler_registry=kinds),
            "run": ocp.JsonCheckpointHandler(),
        }
        self.manager = ocp.CheckpointManager(self.directory, options=options, item_handlers=handlers)

    def save(self, step: int, state: Any, run: dict, metrics: dict[str, float]) -> None:
        """Begin to write; returns once the device arrays are copied. `metrics` rank the checkpoint."""
        if step in self.steps():  # of a run that ended before its evaluation, whose metrics are here now
            self.manager.delete(step)
        items = ocp.args.Composite(state=ocp.args.PyTreeSave(state), run=ocp.args.JsonSave(run))
        self.manager.save(step, args=items, metrics=metrics or None, force=True)

    def restore(self, step: int, abstract: Any) -> tuple[Any, dict]:
        """(state, run) of one step; `abstract` gives shapes, dtypes and placements."""
        placed = ocp.checkpoint_utils.construct_restore_args(abstract)
        state = ocp.args.PyTreeRestore(abstract, restore_args=placed)
        items = ocp.args.Composite(state=state, run=ocp.args.JsonRestore())
        restored = self.manager.restore(step, args=items)
        return restored["state"], restored["run"]

    def restore_latest(self, abstract: Any) -> tuple[int, Any, dict] | None:
        """The newest checkpoint that can be read; unreadable ones are set aside, and said so."""
        _ignore_unfinished_reads()
        for step in sorted(self.steps(), reverse=True):
            try:
                return step, *self.restore(step, abstract)
            except Exception as error:  # whatever a damaged file provokes, an older checkpoint is the answer
                if signals.received is not None:  # a library may make an error of it
                    raise
                reason = _first_line(error)
            self._set_aside(step, reason)
        return None

    def records(self) -> list[dict]:
        """The `run` of each step whose file can be read, the oldest first; one process may ask alone."""
        found = []
        for step in sorted(self.steps()):
            with contextlib.suppress(OSError, ValueError):
                found.append(json.loads((self.directory / str(step) / "run" / "metadata").read_text()))
        return found

    def steps(self) -> list[int]:
        return list(self.manager.all_steps())

    def chosen(self) -> tuple[int | None, float | None]:
        """(step, score) of the best checkpoint; of the newest, without a score, where no finite one decides."""
        metric, steps = self.ranking.metric, self.steps()
        scores = {step: (self.manager.metrics(step) or {}).get(metric) for step in steps}
        best = self.ranking.step(scores)
        if best is not None:
            return best, scores[best]
        if metric is not None and steps:
            log.warning("no checkpoint has a finite %s: the newest, of step %d, is taken", metric, max(steps))
        return max(steps, default=None), None

    def wait(self) -> None:
        """Until everything begun is on disk; raises what went wrong there."""
        self.manager.wait_until_finished()

    def close(self) -> None:
        self.manager.close()

    def _set_aside(self, step: int, reason: str) -> None:
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
    """Print no traceback for each read that Orbax leaves waiting when another read of the same checkpoint fails.

    They end after the event loop is gone, or never: dozens of "exception ignored" that tell nobody anything.
    """
    hook = sys.unraisablehook

    def filtered(unraisable):
        read = getattr(unraisable.object, "__name__", "") == "_read_array_index_and_device_put"
        ended = unraisable.object is None and str(unraisable.exc_value) == "Event loop is closed"
        if not (read or ended):
            hook(unraisable)

    sys.unraisablehook = filtered


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:300]
