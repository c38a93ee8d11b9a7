"""Read a checkpoint's tensors into a model's parameters, each straight into its shards, and report the result."""

import math
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxft.models.checkpoint.pretrained import Architecture, Pretrained
from jaxft.models.checkpoint.quantized_tensors import QuantizedTensor, QuantizedView, separated
from jaxft.models.checkpoint.tensors import check_floats, open_tensors, release
from jaxft.models.checkpoint.weight_table import TensorMap
from jaxft.models.model import Model
from jaxft.models.params import Params, initial, is_quantized, lead, names, shape, trainable, variables
from jaxft.problems import raise_problems

READERS = 4  # threads: some copy while others wait for fresh pages; with two, 1.1 B take a quarter longer


class LazyStack:
    """Views of equal shape, stacked along a new first axis when they are indexed; only the indexed part is read."""

    def __init__(self, views: list[np.ndarray | QuantizedView]):
        self.views = views
        self.shape = (len(views), *views[0].shape)

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        return np.stack([view[index[1:]] for view in self.views[index[0]]])


class ResizedEmbedding:
    """A view (vocabulary, width) with new `rows` behind it; only the indexed part of the view is read."""

    def __init__(self, view: np.ndarray, rows: np.ndarray):
        self.view, self.rows, self.shape = view, rows, (len(view) + len(rows), *view.shape[1:])

    def __getitem__(self, index: tuple[slice, ...]) -> np.ndarray:
        start, stop, _ = index[0].indices(self.shape[0])
        known = len(self.view)
        old, new = slice(start, min(stop, known)), slice(max(start - known, 0), max(stop - known, 0))
        return np.concatenate([self.view[(old, *index[1:])], self.rows[(new, *index[1:])]])


View = np.ndarray | LazyStack | ResizedEmbedding | QuantizedView
Views = dict[str, View]  # parameter name -> its values in the checkpoint


@dataclass
class LoadReport:
    """What became of each tensor and each parameter. Names are the checkpoint's for tensors, jaxft's for parameters."""

    loaded: list[str] = field(default_factory=list)
    new: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    quantized: int = 0  # number of tensors that bitsandbytes quantised
    tokens: int = 0  # number of tokens that the checkpoint does not know

    def __str__(self) -> str:
        lines = [f"loaded {len(self.loaded)} tensors"]
        if self.new and not self.loaded:
            return f"all {len(self.new)} parameters newly initialised"
        lines += [f"{self.quantized} of them quantised by bitsandbytes"] if self.quantized else []
        lines += [f"newly initialised: {', '.join(self.new)}"] if self.new else []
        lines += [f"new rows for {self.tokens} more tokens"] if self.tokens else []
        lines += [f"in the checkpoint but unused: {', '.join(self.unused)}"] if self.unused else []
        return "; ".join(lines)


def find_weights(
    model: Model, pretrained: Pretrained, arch: Architecture, init: str, seed: int = 0
) -> tuple[Views, LoadReport]:
    """Views of the checkpoint's tensors, by parameter name.

    init: "pretrained" takes every tensor, "backbone" leaves the head new, "random" takes nothing. `seed` initialises
    the embeddings of tokens that the checkpoint does not know. Raises UserError that lists every missing, misshapen
    and unexpected tensor; only a head may be missing.
    """
    wanted = {name: shape(variable)[lead(variable) :] for name, variable in _by_name(model) if _stored(variable)}
    if init == "random":
        return {}, LoadReport(new=sorted(wanted))
    tensors, quantized = separated(open_tensors(pretrained.directory))
    finder = _Finder(tensors, pretrained, arch)
    wanted_maps = [one for one in arch.tensor_maps if all(name in wanted for name in one.jaxft)]
    check_floats({name: tensors[name] for one in wanted_maps if (name := finder.find(one)) is not None})
    views: Views = {}
    experts: dict[str, dict[int, np.ndarray | QuantizedView]] = {}
    report, problems = LoadReport(), []
    of_tokens = {name for name, variable in _by_name(model) if variable.get_metadata("axes")[:1] == ("vocab",)}
    for one in wanted_maps:
        stored = finder.find(one)
        if stored is None or (init == "backbone" and _is_head(one.jaxft[0])):
            continue
        pieces = _pieces(one, tensors[stored], quantized.get(stored), [wanted[name][-1:] for name in one.jaxft])
        for name, piece in zip(one.jaxft, pieces, strict=True):
            needed = wanted[name] if one.expert is None else wanted[name][1:]
            view: View = piece
            known = arch.stored_vocab if name in of_tokens else None
            if known is not None and isinstance(piece, np.ndarray) and piece.shape == (known, *needed[1:]):
                report.tokens = needed[0] - known
                view = ResizedEmbedding(piece, new_rows(piece, report.tokens, seed, name))
            if view.shape != needed:
                problems.append(_misshapen(stored, view.shape, needed, _is_head(name)))
            if one.expert is None:
                views[name] = view
            else:
                experts.setdefault(name, {})[one.expert] = piece
        report.loaded.append(stored)
    views |= {name: LazyStack([each[number] for number in sorted(each)]) for name, each in experts.items()}
    problems += [
        f"the checkpoint lacks {one.hf}"
        for one in wanted_maps
        if one.expert is not None and one.jaxft[0] in experts and one.expert not in experts[one.jaxft[0]]
    ]
    report.quantized = len(quantized.keys() & set(report.loaded))
    fixed = wanted.keys() - set(trainable(model))
    report.new = sorted(wanted.keys() - views.keys() - fixed)
    problems += [f"the checkpoint lacks {finder.hf_name(name)}" for name in report.new if not _is_head(name)]
    report.unused, unexpected = finder.leftovers(set(report.loaded))
    problems += [f"unexpected tensor {name} in the checkpoint: no parameter takes it" for name in unexpected]
    problems += finder.broken_ties()
    raise_problems(problems)
    return views, report


def _pieces(
    one: TensorMap, array: np.ndarray, quantized: QuantizedTensor | None, ends: Sequence[tuple[int, ...]]
) -> Sequence[np.ndarray | QuantizedView]:
    """The parameters of a tensor, the sizes of whose last axes are `ends`."""
    widths = [math.prod(end) for end in ends]
    if quantized is None:
        return one.layout.split(array, widths)
    stand_ins = one.layout.split(array.T if one.layout.outputs_axis == 1 else array, widths)
    return [QuantizedView(quantized, one.layout, widths, number, part) for number, part in enumerate(stand_ins)]


def place(
    model: Model,
    views: Views,
    placements: Mapping[str, jax.sharding.Sharding],
    dtypes: Mapping[str, jnp.dtype],
    seed: int,
) -> Params:
    """Stored path -> sharded parameter: from `views` if the checkpoint has it, newly initialised otherwise. Quantised
    kernels are left out (jaxft/quantization/quantized.py).

    A process reads only the bytes that its devices hold, READERS parameters at a time. On CPU they are read into the
    memory that JAX uses, so that the host never holds a second copy. Raises UserError for tensors with NaN or
    infinities, also those that float32 cannot represent.
    """
    broken: list[str] = []

    def one(path: str, variable: nnx.Param) -> jax.Array:
        found = [views.get(name) for name in names(model, path)]
        stored = [view for view in found if view is not None]
        parts = stored if len(stored) == len(found) else initial(model, path, seed)
        read = partial(_read_layers if lead(variable) else _read, parts, dtypes[path], names(model, path), broken)
        return jax.make_array_from_callback(shape(variable), placements[path], read)

    wanted = {path: variable for path, variable in variables(model).items() if not is_quantized(variable)}
    with ThreadPoolExecutor(READERS) as readers:
        params = dict(zip(wanted, readers.map(one, wanted.keys(), wanted.values()), strict=True))
    raise_problems(
        f"the checkpoint has NaN or infinities in {name}, so the model would return NaN: use another copy"
        for name in sorted(set(broken))
    )
    return params


def new_rows(rows: np.ndarray, count: int, seed: int, name: str) -> np.ndarray:
    """Embeddings (count, width) of tokens that a model does not know, float32, close to the mean of the known `rows`.

    A new token is then as likely as a known one is on average, and the logits of those hardly change (Hewitt 2021,
    "Initializing new word embeddings for pretrained language models"). Noise of a hundredth of the known rows' standard
    deviation makes the new ones differ. They depend on (seed, name) only.
    """
    known = rows.astype(np.float32)
    noise = np.random.Generator(np.random.Philox(key=[seed, zlib.crc32(name.encode())]))
    return known.mean(0) + 0.01 * known.std(0) * noise.standard_normal((count, *rows.shape[1:]), np.float32)


def _read(parts: Sequence[View], dtype, called: list[str], broken: list[str], index: tuple[slice, ...]) -> np.ndarray:
    (part,) = parts
    piece = part[index]
    out = aligned(piece.shape, dtype)
    _copy(piece, out)
    if not finite(out):
        broken += called
    release(_mapped(part))
    return out


def _read_layers(
    parts: Sequence[View], dtype, called: list[str], broken: list[str], index: tuple[slice, ...]
) -> np.ndarray:
    chosen, called = parts[index[0]], called[index[0]]
    for row, part in enumerate(chosen):
        piece = part[index[1:]]
        if row == 0:
            out = aligned((len(chosen), *piece.shape), dtype)
        _copy(piece, out[row])
        if not finite(out[row]):
            broken.append(called[row])
        release(_mapped(part))
    return out


def _mapped(view: View) -> list[np.ndarray]:
    """The views of files that a view is made of; those of quantised tensors are small."""
    if isinstance(view, LazyStack):
        return [one for one in view.views if isinstance(one, np.ndarray)]
    if isinstance(view, QuantizedView):
        return []
    return [view.view if isinstance(view, ResizedEmbedding) else view]


def _copy(source: np.ndarray, target: np.ndarray) -> None:
    """Copies a transposed matrix in strips as wide as a cache line: five times faster than row by row, which would
    fetch each written line once for every number in it."""
    strip = 64 // target.itemsize
    with np.errstate(over="ignore"):  # float64 out of range becomes infinity, which `finite` finds
        if source.ndim != 2 or abs(source.strides[0]) >= abs(source.strides[1]):
            target[...] = source
            return
        for start in range(0, source.shape[1], strip):
            target[:, start : start + strip] = source[:, start : start + strip]


def finite(numbers: np.ndarray) -> bool:
    """Checks the sum, which needs no array of the same size; only if that overflows, each number."""
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(numbers.sum(dtype=np.float32)) or np.isfinite(numbers).all())


def aligned(shape: tuple[int, ...], dtype) -> np.ndarray:
    """An empty array whose memory begins at a multiple of 64 bytes: JAX on CPU uses it without a copy."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    memory = np.empty(size + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + size].view(dtype).reshape(shape)


class _Finder:
    """Looks up the tensors of one checkpoint, whose names may lack the backbone's prefix or be of an older style."""

    def __init__(self, tensors: dict[str, np.ndarray], pretrained: Pretrained, arch: Architecture):
        self.tensors, self.family, self.arch = tensors, pretrained.family, arch
        self.copies: dict[str, list[str]] = {}  # tensor -> its repeats
        for repeat, original in arch.ties.items():
            self.copies.setdefault(original, []).append(repeat)
        self.hf_names = {name: one.hf for one in arch.tensor_maps for name in one.jaxft}

    def find(self, wanted: TensorMap) -> str | None:
        """The tensor's name in the file, or None. A file may have any one of several tied tensors."""
        for name in [wanted.hf, *wanted.aliases, *self.copies.get(wanted.hf, [])]:
            bare = name.removeprefix(self.arch.prefix)
            written = [name, bare, *(prefix + bare for prefix in self.family.all_prefixes)]
            if found := next((name for name in written if name in self.tensors), None):
                return found
        return None

    def hf_name(self, name: str) -> str:
        """The tensor that a parameter comes from."""
        return self.hf_names.get(name, name)

    def leftovers(self, loaded: set[str]) -> tuple[list[str], list[str]]:
        """Tensors that no parameter took: (other heads' and the unused side's, unexpected ones)."""
        left = {name: self.family.base_name(name) for name in self.tensors if name not in loaded}
        left = {name: base for name, base in left.items() if not _matches(self.family.buffers, base)}
        repeats = {self.family.base_name(name) for name in self.arch.ties}
        left = {name: base for name, base in left.items() if base not in repeats}
        other_side, others = self.arch.unused, self.family.other_heads
        unused = sorted(name for name, base in left.items() if base in other_side or _matches(others, base))
        return unused, sorted(left.keys() - set(unused))

    def broken_ties(self) -> list[str]:
        """Tied tensors that the checkpoint stores twice, with different values."""
        bases, problems = {self.family.base_name(name): name for name in self.tensors}, []
        by_name = {one.hf: one for one in self.arch.tensor_maps}
        for repeat, original in self.arch.ties.items():
            copy, loaded = bases.get(self.family.base_name(repeat)), self.find(by_name[original])
            if copy and loaded and not np.array_equal(self.tensors[copy], self.tensors[loaded]):
                problems.append(
                    f"{copy} differs from {loaded}, though config.json ties them: set tie_word_embeddings to false, "
                    "or remove one"
                )
        return problems


def _by_name(model: Model) -> list[tuple[str, nnx.Param]]:
    return [(name, variable) for path, variable in variables(model).items() for name in names(model, path)]


def _stored(variable: nnx.Param) -> bool:
    """Whether a checkpoint of the model has the parameter."""
    return variable.get_metadata("origin") == "checkpoint"


def _is_head(name: str) -> bool:
    return name.startswith("head.")


def _matches(patterns: Iterable[str], name: str) -> bool:
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def _misshapen(name: str, found: tuple[int, ...], wanted: tuple[int, ...], head: bool) -> str:
    fix = "; init='backbone' starts a new head" if head else ""
    return f"{name} has shape {tuple(found)}, the model needs {tuple(wanted)}{fix}"
