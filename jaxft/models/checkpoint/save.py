"""Writes a model as a Hugging Face directory: config.json, safetensors, tokenizer files."""

import contextlib
import functools
import json
import logging
import os
import re
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

from jaxft.models.checkpoint.pretrained import Architecture, Pretrained
from jaxft.models.checkpoint.quantized_tensors import separated
from jaxft.models.checkpoint.sentence_transformers import LENGTHS, MODULES, PROMPTS
from jaxft.models.checkpoint.tensors import has_weights, open_tensors
from jaxft.models.checkpoint.weight_table import TensorMap
from jaxft.models.model import Model
from jaxft.models.params import Params, lead, names, trainable, variables
from jaxft.problems import raise_problems

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedTokenizerFast

log = logging.getLogger("jaxft")

FILE_BYTES = 5 * 10**9  # largest file; larger checkpoints are split into shards, as in transformers
FLOATS = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
COPIED = (
    "tokenizer.json tokenizer_config.json special_tokens_map.json added_tokens.json vocab.txt vocab.json merges.txt "
    "tokenizer.model spiece.model spm.model sentencepiece.bpe.model source.spm target.spm target_vocab.json "
    "chat_template.jinja generation_config.json preprocessor_config.json processor_config.json normalizer.json "
    "jaxft.json"
).split()
WRITTEN = ("config.json", "adapter_config.json", "model.safetensors.index.json", "README.md", MODULES, LENGTHS, PROMPTS)
MODULE = r"\d+_(Pooling|Dense|Normalize)"  # folders of a sentence-transformers model


def save_model(
    directory: str | Path,
    model: Model,
    params: Params,
    pretrained: Pretrained,
    arch: Architecture,
    *,
    dtype: str = "auto",
    labels: list[str] | None = None,
    problem_type: str | None = None,
    files: dict[str, str | bytes] | None = None,
    tokenizer: "PreTrainedTokenizerFast | None" = None,
) -> None:
    """Writes `directory`; a model that is already there is replaced once the new one is complete.

    dtype: "auto" keeps each tensor's type in the checkpoint that the model came from, so that an unchanged tensor is
    byte-equal; otherwise float32, float16 or bfloat16. If a weight is beyond that format's range, all are float32.
    `files` are further files by name; `tokenizer` is given if it has changed since it was read. Every process of a pod
    must call this; the first one writes. Raises UserError if the directory has files that are not a model's, which
    would be lost.
    """
    target = Path(directory).absolute()
    raise_problems(output_problems(target))
    dtype = dtype_in_range(dtype, model, params, pretrained, arch)
    writes = jax.process_index() == 0
    with _replaced(target, writes) as partial:
        if writes:
            config = exported_config(pretrained, arch, dtype, labels, problem_type)
            (partial / "config.json").write_text(json.dumps(config, indent=2) + "\n")
            for name in COPIED:
                if (pretrained.directory / name).exists():
                    shutil.copy(pretrained.directory / name, partial / name)
            if tokenizer is not None:
                tokenizer.save_pretrained(partial)
            for name, text in (files or {}).items():
                (partial / name).parent.mkdir(exist_ok=True)
                (partial / name).write_bytes(text.encode() if isinstance(text, str) else text)
        _write_tensors(partial, writes, named_tensors(model, params, pretrained, arch, dtype))


def save_files(
    directory: str | Path, tensors: dict[str, np.ndarray], name: str, files: dict[str, str], tokenizer: Any
) -> None:
    """Writes `directory` with one file of tensors, `name`, and others, as `save_model` does."""
    target, writes = Path(directory).absolute(), jax.process_index() == 0
    raise_problems(output_problems(target))
    with _replaced(target, writes) as partial:
        written = _write(partial, 0, tensors, writes)
        if writes:
            os.replace(partial / written.file, partial / name)
            tokenizer.save_pretrained(partial)
            for file, text in files.items():
                (partial / file).write_text(text)


@contextlib.contextmanager
def _replaced(target: Path, writes: bool) -> Iterator[Path]:
    """A directory that replaces `target` when the block ends, and is deleted if the block fails.

    `target` never has a part of a model only.
    """
    partial, former = target.with_name(f"{target.name}.partial"), target.with_name(f".{target.name}.former")
    if not writes:
        yield partial
        return
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    shutil.rmtree(former, ignore_errors=True)
    if target.exists():
        os.replace(target, former)
    os.replace(partial, target)
    shutil.rmtree(former, ignore_errors=True)


def output_problems(directory: Path) -> list[str]:
    """Reasons why a model cannot be written to `directory`."""
    partial = directory.with_name(directory.name + ".partial")
    links = [path for path in (directory, partial) if path.is_symlink()]
    if links:
        return [f"{links[0]} is a symbolic link, whose target would be lost: remove it, or use another directory"]
    if directory.exists() and not directory.is_dir():
        return [f"{directory} is a file: a model is a directory"]
    found = sorted(file.name for file in directory.iterdir()) if directory.exists() else []
    others = [
        name
        for name in found
        if name not in (*COPIED, *WRITTEN) and not name.endswith(".safetensors") and not re.fullmatch(MODULE, name)
    ]
    if not others:
        return []
    few = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
    return [f"{directory} holds {few}, which would be lost: use another directory for the model, or empty this one"]


def place_problems(directory: Path) -> list[str]:
    """Missing permission to write to `directory`."""
    above = next(path for path in directory.parents if path.exists())
    writable = os.access(above, os.W_OK | os.X_OK)
    return [] if writable else [f"{above} cannot be written: use another directory for the model"]


def exported_config(
    pretrained: Pretrained, arch: Architecture, dtype: str, labels: list[str] | None, problem_type: str | None
) -> dict[str, Any]:
    """The original config.json with the exported head, labels and number format; weights are written in floats."""
    config = {name: value for name, value in pretrained.raw.items() if name != "quantization_config"}
    config["architectures"] = [pretrained.family.architectures[arch.kind]]
    if arch.stored_vocab is not None:
        sizes = [name for name, value in config.items() if name.endswith("vocab_size") and value == arch.stored_vocab]
        config |= dict.fromkeys([*sizes, "vocab_size"], arch.spec.embed.vocab)  # each side may have its own
    if labels is not None:
        config.pop("num_labels", None)
        config["id2label"] = {str(number): label for number, label in enumerate(labels)}
        config["label2id"] = {label: number for number, label in enumerate(labels)}
    if problem_type is not None:
        config["problem_type"] = problem_type
    if dtype != "auto":
        config["torch_dtype" if "torch_dtype" in config else "dtype"] = dtype
    return config


def named_tensors(
    model: Model, params: Params, pretrained: Pretrained, arch: Architecture, dtype: str
) -> Iterator[tuple[str, np.ndarray]]:
    """(name, array) of every tensor of the checkpoint, one at a time."""
    by_name = {name: (path, row) for path in variables(model) for row, name in enumerate(names(model, path))}
    for tensor_map, kind in formats(model, pretrained, arch, dtype):
        joined = tensor_map.layout.join(
            [fetched(params, *by_name[name], tensor_map.expert) for name in tensor_map.jaxft]
        )
        name = tensor_map.hf.removeprefix(arch.prefix) if arch.kind == "none" else tensor_map.hf
        yield name, np.asarray(joined.astype(kind), order="C")


def formats(model: Model, pretrained: Pretrained, arch: Architecture, dtype: str) -> list[tuple[TensorMap, np.dtype]]:
    """Each tensor that is written, and its number format.

    Tensors that never train are written only if the checkpoint had them: they follow from config.json.
    """
    known = {name for path in variables(model) for name in names(model, path)}
    stored, train = _stored_dtypes(pretrained), set(trainable(model))
    usual = np.dtype(FLOATS.get(dtype) or _usual(stored.values()))
    return [
        (tensor_map, stored.get(base, usual) if dtype == "auto" else usual)
        for tensor_map in arch.tensor_maps
        if ((base := tensor_map.hf.removeprefix(arch.prefix)) in stored or train.issuperset(tensor_map.jaxft))
        and known.issuperset(tensor_map.jaxft)
    ]


def dtype_in_range(dtype: str, model: Model, params: Params, pretrained: Pretrained, arch: Architecture) -> str:
    """`dtype`, or "float32" if it would turn a finite weight into an infinity; a warning names the tensors."""
    narrow = [(tensor_map, kind) for tensor_map, kind in formats(model, pretrained, arch, dtype) if kind.itemsize < 4]
    sizes = largest(model, params) if narrow else {}
    beyond = {
        tensor_map.hf: kind.name
        for tensor_map, kind in narrow
        if float(jnp.finfo(kind).max) < max(sizes[name] for name in tensor_map.jaxft) < np.inf
    }
    if not beyond:
        return dtype
    log.warning(
        "the weights are written in float32: %s cannot represent numbers as large as those in %s",
        " and ".join(sorted(set(beyond.values()))),
        name_list(beyond),
    )
    return "float32"


def largest(model: Model, params: Params) -> dict[str, float]:
    """The largest magnitude of each parameter, by name; NaN or infinity if any of its numbers is."""
    paths, place = variables(model), next(iter(params.values())).sharding
    if isinstance(place, jax.sharding.NamedSharding):  # replicated, so that every process has the result
        place = jax.sharding.NamedSharding(place.mesh, jax.sharding.PartitionSpec())
    found = _magnitudes(place)(params, leads=tuple((path, lead(paths[path])) for path in params))
    sizes = {path: np.ravel(values) for path, values in jax.device_get(found).items()}
    return {name: float(size) for path in sizes for name, size in zip(names(model, path), sizes[path], strict=True)}


@functools.cache  # one function for all calls, because each would be compiled
def _magnitudes(place: jax.sharding.Sharding) -> jax.stages.Wrapped:
    """Jitted (params, leads=) -> the largest magnitudes; `leads` has the number of leading axes that stay, by path."""

    def magnitudes(params: Params, leads: tuple[tuple[str, int], ...]) -> Params:
        return {path: jnp.max(jnp.abs(params[path]), range(kept, params[path].ndim)) for path, kept in leads}

    return jax.jit(magnitudes, static_argnames="leads", out_shardings=place)


def name_list(tensors: Iterable[str], most: int = 3) -> str:
    """Names for a message: the first `most`, and the number of others."""
    tensors = list(tensors)
    more = f" and {len(tensors) - most} more" if len(tensors) > most else ""
    return ", ".join(tensors[:most]) + more


def _stored_dtypes(pretrained: Pretrained) -> dict[str, np.dtype]:
    """Number format of each tensor of the original checkpoint, by name without the backbone's prefix."""
    if not has_weights(pretrained.directory):
        return {}
    tensors, _ = separated(open_tensors(pretrained.directory))
    return {pretrained.family.base_name(name): view.dtype for name, view in tensors.items()}


def _usual(dtypes: Iterable[np.dtype]) -> np.dtype:
    """The most frequent format."""
    floats = [d for d in dtypes if d in [np.dtype(f) for f in FLOATS.values()]]
    return max(set(floats), key=floats.count) if floats else np.dtype(np.float32)


def fetched(params: Params, path: str, layer: int, row: int | None = None) -> np.ndarray:
    """On the host: a parameter's values in a layer; with `row` a row of these. Every process must call it."""
    value = params[path]
    if "layers.segments." in path:
        value = value[layer]
    if row is not None:
        value = value[row]
    if not value.is_fully_addressable:
        from jax.experimental.multihost_utils import process_allgather

        return process_allgather(value, tiled=True)
    return np.asarray(jax.device_get(value))


class _Shard(NamedTuple):
    file: str
    size: int  # bytes of its tensors
    tensors: list[str]


def _write_tensors(directory: Path, writes: bool, tensors: Iterable[tuple[str, np.ndarray]]) -> None:
    """Writes files of at most FILE_BYTES; several files get an index."""
    files: list[_Shard] = []
    batch: dict[str, np.ndarray] = {}
    size = 0
    for name, array in tensors:
        if batch and size + array.nbytes > FILE_BYTES:
            files.append(_write(directory, len(files), batch, writes))
            batch, size = {}, 0
        batch[name], size = array, size + array.nbytes
    files.append(_write(directory, len(files), batch, writes))
    if not writes:
        return
    if len(files) == 1:
        os.replace(directory / files[0].file, directory / "model.safetensors")
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(files):
        final = f"model-{number + 1:05d}-of-{len(files):05d}.safetensors"
        os.replace(directory / shard.file, directory / final)
        weight_map |= dict.fromkeys(shard.tensors, final)
    index = {"metadata": {"total_size": sum(shard.size for shard in files)}, "weight_map": weight_map}
    (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _write(directory: Path, number: int, batch: dict[str, np.ndarray], writes: bool) -> _Shard:
    file = f"part-{number}.safetensors"
    if writes:
        save_file(batch, directory / file, metadata={"format": "pt"})
        (directory / file).chmod(0o644)  # safetensors creates files that only their owner may read
    return _Shard(file, sum(array.nbytes for array in batch.values()), list(batch))
