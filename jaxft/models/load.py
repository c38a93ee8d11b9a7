"""Bring a checkpoint's tensors into a model's parameters, each straight into its shards, and say what happened."""

import re
from dataclasses import dataclass, field
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.models.model import Model
from jaxft.models.params import Params, initial, names, shape, variables
from jaxft.models.pretrained import Architecture, Pretrained
from jaxft.models.tensors import open_tensors
from jaxft.problems import raise_problems

Views = dict[str, np.ndarray]


@dataclass
class LoadReport:
    """What became of each tensor and each parameter. Names are the checkpoint's for tensors, jaxft's for parameters."""

    loaded: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)

    def __str__(self):
        lines = [f"loaded {len(self.loaded)} tensors"]
        if self.new and not self.loaded:
            return f"all {len(self.new)} parameters newly initialised"
        lines += [f"newly initialised: {', '.join(self.new)}"] if self.new else []
        lines += [f"in the checkpoint but unused: {', '.join(self.unused)}"] if self.unused else []
        return "; ".join(lines)


def find_weights(model: Model, pretrained: Pretrained, arch: Architecture, init: str) -> tuple[Views, LoadReport]:
    """Parameter name -> view of its tensor in the checkpoint, for all that the checkpoint has.

    init: "pretrained" takes all, "backbone" leaves the head new, "random" takes nothing. Raises UserError that lists
    every missing, misshapen and unexpected tensor; only a head may be missing.
    """
    wanted = {name: shape(variable)[_lead(variable) :] for name, variable in _by_name(model)}
    if init == "random":
        return {}, LoadReport(new=sorted(wanted))
    tensors = open_tensors(pretrained.directory)
    finder = _Finder(tensors, pretrained, arch)
    views, report, problems = {}, LoadReport(), []
    for entry in arch.entries:
        if not all(name in wanted for name in entry.ours):
            continue
        theirs = finder.find(entry)
        if theirs is None or (init == "backbone" and _is_head(entry.ours[0])):
            continue
        parts = entry.how.split(tensors[theirs], [wanted[name][-1] for name in entry.ours])
        for name, part in zip(entry.ours, parts, strict=True):
            if part.shape != wanted[name]:
                problems.append(_misshapen(theirs, part.shape, wanted[name], _is_head(name)))
            views[name] = part
        report.loaded.append(theirs)
    report.new = sorted(wanted.keys() - views.keys())
    problems += [f"the checkpoint lacks {finder.their_name(name)}" for name in report.new if not _is_head(name)]
    report.unused, unexpected = finder.leftovers(set(report.loaded))
    problems += [f"unexpected tensor {name} in the checkpoint: no parameter takes it" for name in unexpected]
    problems += finder.broken_ties()
    raise_problems(problems)
    return views, report


def place(model: Model, views: Views, placements: dict, dtypes: dict[str, jnp.dtype], seed: int) -> Params:
    """Path -> sharded parameter: from `views` where the checkpoint has it, newly initialised otherwise.

    A process reads only the bytes that its devices keep, one layer's tensor at a time: a stacked array is made on the
    devices and filled row by row, so the host never holds a second copy of it.
    """
    params = {}
    for path, variable in variables(model).items():
        parts = [views.get(name) for name in names(model, path)]
        dtype, placement = dtypes[path], placements[path]
        if any(part is None for part in parts):
            params[path] = initial(model, path, seed, placement, dtype)
        elif _lead(variable):
            params[path] = _fill(parts, shape(variable), placement, dtype)
        else:
            params[path] = _put(parts[0], placement, dtype)
    return params


def _fill(parts, shape, placement, dtype):
    row_placement = jax.sharding.NamedSharding(placement.mesh, jax.sharding.PartitionSpec(*placement.spec[1:]))
    stacked = jax.jit(partial(jnp.zeros, shape, dtype), out_shardings=placement)()
    set_row = _row_setter(placement)
    for row, part in enumerate(parts):
        stacked = set_row(stacked, _put(part, row_placement, dtype), row)
    return stacked


@cache
def _row_setter(placement):
    return jax.jit(lambda stacked, part, row: stacked.at[row].set(part), donate_argnums=0, out_shardings=placement)


def _put(view, placement, dtype):
    # np.array copies: a device buffer must not alias the memory map of a file that may be replaced later.
    return jax.make_array_from_callback(view.shape, placement, lambda index: np.array(view[index], dtype))


class _Finder:
    """Looks up the tensors of one checkpoint, whose names may lack the backbone's prefix or be of an older style."""

    def __init__(self, tensors, pretrained: Pretrained, arch: Architecture):
        self.tensors, self.family, self.arch = tensors, pretrained.family, arch
        self.bases = {original: repeat for repeat, original in arch.repeats.items()}

    def find(self, entry) -> str | None:
        """The tensor's name in the file, or None."""
        candidates = [entry.theirs, *entry.aliases]
        if entry.theirs in self.bases:
            candidates.append(self.bases[entry.theirs])  # only the tied copy may have been stored
        candidates += [name.removeprefix(self.family.PREFIX) for name in candidates]
        return next((name for name in candidates if name in self.tensors), None)

    def their_name(self, ours: str) -> str:
        return next((entry.theirs for entry in self.arch.entries if ours in entry.ours), ours)

    def leftovers(self, loaded: set[str]) -> tuple[list[str], list[str]]:
        """Tensors that nothing took: (those of other heads, those that nobody expects)."""
        left = {name: name.removeprefix(self.family.PREFIX) for name in self.tensors if name not in loaded}
        left = {name: base for name, base in left.items() if not _matches(self.family.BUFFERS, base)}
        left = {name: base for name, base in left.items() if name not in self.arch.repeats}
        unused = sorted(name for name, base in left.items() if _matches(self.family.OTHER_HEADS, base))
        return unused, sorted(left.keys() - set(unused))

    def broken_ties(self) -> list[str]:
        """Tied tensors that the checkpoint stores twice, with different values."""
        problems = []
        for repeat, original in self.arch.repeats.items():
            stored = next((n for n in (original, original.removeprefix(self.family.PREFIX)) if n in self.tensors), None)
            if repeat in self.tensors and stored and not np.array_equal(self.tensors[repeat], self.tensors[stored]):
                problems.append(
                    f"{repeat} differs from {stored}, though config.json ties them: set tie_word_embeddings to false, "
                    "or remove one"
                )
        return problems


def _by_name(model):
    return [(name, variable) for path, variable in variables(model).items() for name in names(model, path)]


def _lead(variable) -> int:
    """1 if the parameter has a leading axis of layers."""
    return int(variable.get_metadata("axes")[0] == "layers")


def _is_head(name: str) -> bool:
    return name.startswith("head.")


def _matches(patterns, name) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def _misshapen(theirs, found, wanted, head) -> str:
    fix = "; init='backbone' starts a new head" if head else ""
    return f"{theirs} has shape {tuple(found)}, the model needs {tuple(wanted)}{fix}"
