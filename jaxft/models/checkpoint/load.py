"""Bring a checkpoint's tensors into a model's parameters, each straight into its shards, and say what happened."""

import math
import re
import zlib
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.models.checkpoint.pretrained import Architecture, Pretrained
from jaxft.models.checkpoint.tensors import check_floats, open_tensors, release
from jaxft.models.model import Model
from jaxft.models.params import Params, initial, lead, names, shape, trainable, variables
from jaxft.problems import raise_problems

Views = dict[str, "np.ndarray | LazyStack | ResizedEmbedding"]
READERS = 4  # threads: some copy while others wait for fresh pages; with two, 1.1 B take a quarter longer


@dataclass
class LoadReport:
    """What became of each tensor and each parameter. Names are the checkpoint's for tensors, jaxft's for parameters."""

    loaded: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    tokens: int = 0  # that the checkpoint does not know

    def __str__(self):
        lines = [f"loaded {len(self.loaded)} tensors"]
        if self.new and not self.loaded:
            return f"all {len(self.new)} parameters newly initialised"
        lines += [f"newly initialised: {', '.join(self.new)}"] if self.new else []
        lines += [f"new rows for {self.tokens} more tokens"] if self.tokens else []
        lines += [f"in the checkpoint but unused: {', '.join(self.unused)}"] if self.unused else []
        return "; ".join(lines)


def find_weights(
    model: Model, pretrained: Pretrained, arch: Architecture, init: str, seed: int = 0
) -> tuple[Views, LoadReport]:
    """Parameter name -> view of its tensor in the checkpoint, for all that the checkpoint has.

    init: "pretrained" takes all, "backbone" leaves the head new, "random" takes nothing. `seed` is that of the rows of
    tokens that the checkpoint does not know. Raises UserError that lists every missing, misshapen and unexpected
    tensor; only a head may be missing.
    """
    wanted = {name: shape(variable)[lead(variable) :] for name, variable in _by_name(model)}
    if init == "random":
        return {}, LoadReport(new=sorted(wanted))
    tensors = open_tensors(pretrained.directory)
    finder = _Finder(tensors, pretrained, arch)
    found = {finder.find(entry) for entry in arch.entries if all(name in wanted for name in entry.ours)} - {None}
    check_floats({name: tensors[name] for name in found})
    views, piles, report, problems = {}, {}, LoadReport(), []
    of_tokens = {name for name, variable in _by_name(model) if variable.get_metadata("axes")[:1] == ("vocab",)}
    for entry in arch.entries:
        if not all(name in wanted for name in entry.ours):
            continue
        theirs = finder.find(entry)
        if theirs is None or (init == "backbone" and _is_head(entry.ours[0])):
            continue
        parts = entry.how.split(tensors[theirs], [math.prod(wanted[name][-1:]) for name in entry.ours])
        for name, part in zip(entry.ours, parts, strict=True):
            needed = wanted[name] if entry.row is None else wanted[name][1:]
            if arch.fewer is not None and name in of_tokens and part.shape == (arch.fewer, *needed[1:]):
                report.tokens = needed[0] - arch.fewer
                part = ResizedEmbedding(part, new_rows(part, needed[0] - arch.fewer, seed, name))
            if part.shape != needed:
                problems.append(_misshapen(theirs, part.shape, needed, _is_head(name)))
            if entry.row is None:
                views[name] = part
            else:
                piles.setdefault(name, {})[entry.row] = part
        report.loaded.append(theirs)
    views |= {name: LazyStack([pile[row] for row in sorted(pile)]) for name, pile in piles.items()}
    problems += [
        f"the checkpoint lacks {entry.theirs}"
        for entry in arch.entries
        if entry.row is not None and entry.ours[0] in piles and entry.row not in piles[entry.ours[0]]
    ]
    fixed = wanted.keys() - set(trainable(model))
    report.new = sorted(wanted.keys() - views.keys() - fixed)
    problems += [f"the checkpoint lacks {finder.their_name(name)}" for name in report.new if not _is_head(name)]
    report.unused, unexpected = finder.leftovers(set(report.loaded))
    problems += [f"unexpected tensor {name} in the checkpoint: no parameter takes it" for name in unexpected]
    problems += finder.broken_ties()
    raise_problems(problems)
    return views, report


def place(model: Model, views: Views, placements: dict, dtypes: dict[str, jnp.dtype], seed: int) -> Params:
    """Path -> sharded parameter: from `views` where the checkpoint has it, newly initialised otherwise.

    A process reads only the bytes that its devices keep, READERS parameters at a time; on CPU they are read to where
    they stay, so that the host never holds a second copy. Raises UserError for tensors with NaN or infinities, also
    those that float32 has no room for.
    """
    broken: list[str] = []

    def one(path, variable):
        parts = [views.get(name) for name in names(model, path)]
        if any(part is None for part in parts):
            parts = initial(model, path, seed)
        read = partial(_read_layers if lead(variable) else _read, parts, dtypes[path], names(model, path), broken)
        return jax.make_array_from_callback(shape(variable), placements[path], read)

    wanted = variables(model)
    with ThreadPoolExecutor(READERS) as readers:
        params = dict(zip(wanted, readers.map(one, wanted.keys(), wanted.values()), strict=True))
    raise_problems(
        f"the checkpoint has NaN or infinities in {name}, and the model would answer nothing else: take another copy"
        for name in sorted(set(broken))
    )
    return params


class LazyStack:
    """Views of one shape as an array of one more axis, of which only what is asked for is read."""

    def __init__(self, views: list[np.ndarray]):
        self.views = views

    def __getitem__(self, index) -> np.ndarray:
        return np.stack([view[index[1:]] for view in self.views[index[0]]])


class ResizedEmbedding:
    """A view with further rows behind it, of which only what is asked for is read."""

    def __init__(self, view: np.ndarray, rows: np.ndarray):
        self.views, self.rows, self.shape = [view], rows, (len(view) + len(rows), *view.shape[1:])

    def __getitem__(self, index) -> np.ndarray:
        (view,) = self.views
        start, stop, _ = index[0].indices(self.shape[0])
        old, new = slice(start, min(stop, len(view))), slice(max(start - len(view), 0), max(stop - len(view), 0))
        return np.concatenate([view[(old, *index[1:])], self.rows[(new, *index[1:])]])


def new_rows(rows: np.ndarray, count: int, seed: int, name: str) -> np.ndarray:
    """Rows for tokens that a model does not know, float32: near the mean of all the others.

    So each of them is as likely as a known one is on average, and the scores of those hardly change (Hewitt 2021,
    "Initializing new word embeddings for pretrained language models"); a hundredth of the known ones' spread lets them
    differ. They depend on (seed, name) only.
    """
    known = rows.astype(np.float32)
    noise = np.random.Generator(np.random.Philox(key=[seed, zlib.crc32(name.encode())]))
    return known.mean(0) + 0.01 * known.std(0) * noise.standard_normal((count, *rows.shape[1:]), np.float32)


def _read(parts, dtype, called, broken, index):
    (part,) = parts
    piece = part[index]
    out = _aligned(piece.shape, dtype)
    _copy(piece, out)
    if not _finite(out):
        broken += called
    release(getattr(part, "views", [part]))
    return out


def _read_layers(parts, dtype, called, broken, index):
    chosen, called = parts[index[0]], called[index[0]]
    for row, part in enumerate(chosen):
        piece = part[index[1:]]
        if row == 0:
            out = _aligned((len(chosen), *piece.shape), dtype)
        _copy(piece, out[row])
        if not _finite(out[row]):
            broken.append(called[row])
        release(getattr(part, "views", [part]))
    return out


def _copy(source: np.ndarray, target: np.ndarray) -> None:
    """A matrix that is a view of its transpose goes over in strips as wide as a cache line, else each line that is
    written would be fetched once for every number in it: five times faster."""
    strip = 64 // target.itemsize
    with np.errstate(over="ignore"):  # of float64: `_finite` finds it
        if source.ndim != 2 or abs(source.strides[0]) >= abs(source.strides[1]):
            target[...] = source
            return
        for start in range(0, source.shape[1], strip):
            target[:, start : start + strip] = source[:, start : start + strip]


def _finite(numbers: np.ndarray) -> bool:
    """Their sum says it, with no array as large as they are; only a sum too large asks for more."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(numbers.sum(dtype=np.float32)) or np.isfinite(numbers).all())


def _aligned(shape, dtype) -> np.ndarray:
    """An empty array whose memory begins at a multiple of 64 bytes: JAX on CPU takes it as it is, without a copy."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)


class _Finder:
    """Looks up the tensors of one checkpoint, whose names may lack the backbone's prefix or be of an older style."""

    def __init__(self, tensors, pretrained: Pretrained, arch: Architecture):
        self.tensors, self.family, self.arch = tensors, pretrained.family, arch
        self.copies = {}  # original -> its repeats
        for repeat, original in arch.repeats.items():
            self.copies.setdefault(original, []).append(repeat)
        self.theirs = {ours: entry.theirs for entry in arch.entries for ours in entry.ours}

    def find(self, entry) -> str | None:
        """The tensor's name in the file, or None. Of tied ones only a copy may have been stored."""
        for name in [entry.theirs, *entry.aliases, *self.copies.get(entry.theirs, [])]:
            bare = name.removeprefix(self.arch.prefix)
            written = [name, bare, *(prefix + bare for prefix in self.family.all_prefixes)]
            if found := next((name for name in written if name in self.tensors), None):
                return found
        return None

    def their_name(self, ours: str) -> str:
        return self.theirs.get(ours, ours)

    def leftovers(self, loaded: set[str]) -> tuple[list[str], list[str]]:
        """Tensors that nothing took: (those of other heads, those that nobody expects)."""
        left = {name: self.family.base(name) for name in self.tensors if name not in loaded}
        left = {name: base for name, base in left.items() if not _matches(self.family.buffers, base)}
        repeats = {self.family.base(name) for name in self.arch.repeats}
        left = {name: base for name, base in left.items() if base not in repeats}
        absent, others = self.arch.absent, self.family.other_heads
        unused = sorted(name for name, base in left.items() if base in absent or _matches(others, base))
        return unused, sorted(left.keys() - set(unused))

    def broken_ties(self) -> list[str]:
        """Tied tensors that the checkpoint stores twice, with different values."""
        bases, problems = {self.family.base(name): name for name in self.tensors}, []
        entries = {entry.theirs: entry for entry in self.arch.entries}
        for repeat, original in self.arch.repeats.items():
            copy, kept = bases.get(self.family.base(repeat)), self.find(entries[original])
            if copy and kept and not np.array_equal(self.tensors[copy], self.tensors[kept]):
                problems.append(
                    f"{copy} differs from {kept}, though config.json ties them: set tie_word_embeddings to false, "
                    "or remove one"
                )
        return problems


def _by_name(model):
    return [(name, variable) for path, variable in variables(model).items() for name in names(model, path)]


def _is_head(name: str) -> bool:
    return name.startswith("head.")


def _matches(patterns, name) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def _misshapen(theirs, found, wanted, head) -> str:
    fix = "; init='backbone' starts a new head" if head else ""
    return f"{theirs} has shape {tuple(found)}, the model needs {tuple(wanted)}{fix}"
