"""A Hugging Face model directory, opened: its configuration, its family, its architecture with a given head."""

import importlib
import os.path
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np

from jaxft.models import families
from jaxft.models.checkpoint.config_reader import ConfigReader, read_config, read_raw
from jaxft.models.checkpoint.encoder_only import backbone_rules, tensor_maps
from jaxft.models.checkpoint.tensors import has_weights, open_tensors
from jaxft.models.checkpoint.tokenizer import read_tokenizer, vocabulary_problems
from jaxft.models.checkpoint.weight_table import Family, Renames, TensorMap
from jaxft.models.heads import FIXED_SCORES, READ_AGAIN, Head
from jaxft.models.spec import Spec
from jaxft.problems import UserError, clipped, raise_problems, suggest, truncated_repr

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedTokenizerFast

T = TypeVar("T")
FAMILIES = Path(families.__file__).parent


@dataclass(frozen=True)
class Pretrained:
    """A model directory with its config.json; weights are not opened yet."""

    directory: Path
    raw: dict[str, Any]  # config.json, unchanged
    reader: ConfigReader
    family: Family

    @property
    def labels(self) -> list[str] | None:
        """Class names by class id, if the checkpoint has its own (not LABEL_0, LABEL_1, ...)."""
        table = self.raw.get("id2label")
        if not table or all(re.fullmatch(r"LABEL_\d+", str(name)) for name in table.values()):
            return None
        return [table[number] for number in sorted(table, key=int)]


@dataclass(frozen=True)
class Architecture:
    """A backbone, a head, and the table of their weights."""

    spec: Spec
    kind: str  # the head's name, one of KINDS
    head: Head | None
    tensor_maps: list[TensorMap]
    ties: Mapping[str, str]  # tensors that repeat others: name -> the name of the tensor that is read
    prefix: str  # of the backbone's tensors in a checkpoint with this head
    unused: frozenset[str] = frozenset()  # tensors of the side of an encoder-decoder that this head leaves out
    stored_vocab: int | None = None  # number of tokens in the checkpoint, if the model has more
    modules: Renames = ()  # of the family

    def parameter(self, tensor: str) -> str:
        """The name in transformers' model of a checkpoint's tensor; they differ in few families."""
        name = tensor.removeprefix(self.prefix) if self.kind == "none" else tensor
        for pattern, replacement in self.modules:
            name = re.sub(pattern, replacement, name)
        return name


def family_names() -> list[str]:
    """The model types that are supported, which are the names of their files."""
    return sorted(file.stem for file in FAMILIES.glob("*.py") if file.stem != "__init__")


def open_pretrained(model: str) -> Pretrained:
    """Opens a local directory, or a model of the Hub (downloaded, or from the local cache when offline)."""
    directory = _directory(model)
    if not os.path.lexists(directory / "config.json"):
        raise_problems([f"{directory} has no config.json: not a Hugging Face model directory"])
    raw = read_raw(directory)
    name, known = raw["model_type"].replace("-", "_"), family_names()
    if name not in known:
        raise_problems([f"{directory}: model_type {truncated_repr(name)} is not supported, only {', '.join(known)}"])
    opened = cache(lambda: open_tensors(directory) if has_weights(directory) else {})
    reader = read_config(directory, raw, partial(differ, opened))
    how = raw.get("quantization_config")
    if isinstance(how, dict) and how.get("quant_method") == "bitsandbytes":
        reader.ignore("quantization_config")  # the tensors say how they are quantised
    return Pretrained(directory, raw, reader, importlib.import_module(f"jaxft.models.families.{name}").FAMILY)


def architecture(
    pretrained: Pretrained,
    kind: str | None = None,
    classes: int | None = None,
    dropout: float | None = None,
    vocabulary: int = 0,
) -> Architecture:
    """The architecture with head `kind` (None: the first of config.json's `architectures`).

    `classes` defaults to the checkpoint's number, `dropout` replaces every rate of config.json, and `vocabulary` is the
    least number of token embeddings. Raises UserError for a head that the family does not have, and for settings of
    config.json that nothing reads.
    """
    family, reader = pretrained.family, pretrained.reader
    kind = kind or _kind_of(pretrained)
    if kind not in family.architectures:
        heads = list(family.architectures)
        model = f"a {pretrained.raw['model_type']} model"
        raise UserError(f"{model} has no head {kind!r}, only {', '.join(heads)}.{suggest(kind, heads)}")
    spec, backbone, unused = backbone_rules(family, reader, kind)
    classes = FIXED_SCORES.get(kind, classes or stored_classes(pretrained))
    if kind in READ_AGAIN and spec.encoder is not None and spec.decoder_start is None:
        raise_problems(["config.json has no decoder_start_token_id, the first token of the decoder's input: add it"])
    if kind != "causal-lm":
        spec = replace(spec, router_aux_coef=0.0)  # as in transformers, only this loss includes it
    known = spec.input_side.embed.vocab
    if known < vocabulary:
        spec = with_vocabulary(spec, vocabulary)
    head, head_rules, ties = family.head(reader, kind, classes)
    reader.check()
    prefix = dict(family.prefixes).get(kind, family.prefix)
    rules = [*(rule._replace(hf=prefix + rule.hf) for rule in backbone), *head_rules]
    if dropout is not None:
        spec, head = with_dropout(spec, dropout), with_dropout(head, dropout)
    stored_vocab = known if known < vocabulary else None
    return Architecture(spec, kind, head, tensor_maps(rules, spec), ties, prefix, unused, stored_vocab, family.modules)


def stored_classes(pretrained: Pretrained) -> int:
    """The number of classes in config.json; 2, transformers' default, if it has none."""
    raw = pretrained.raw
    return len(raw["id2label"]) if raw.get("id2label") else raw.get("num_labels", 2)


def with_dropout(part: T, rate: float) -> T:
    """A copy of a spec with every dropout rate at any depth set to `rate`, except those that are None."""
    if isinstance(part, tuple):
        return cast(T, tuple(with_dropout(item, rate) for item in part))
    if not is_dataclass(part) or isinstance(part, type):
        return part
    changes = {f.name: with_dropout(getattr(part, f.name), rate) for f in fields(part)}
    rates = {name: rate for name, value in changes.items() if name.endswith("dropout") and value is not None}
    return replace(part, **changes | rates)


def differ(tensors: Callable[[], Mapping[str, np.ndarray]], first: str, second: str) -> bool:
    """Whether the checkpoint, which `tensors()` opens, has both tensors, with different values."""
    found = tensors()
    return all(name in found for name in (first, second)) and not np.array_equal(found[first], found[second])


def with_vocabulary(spec: Spec, vocabulary: int) -> Spec:
    """A copy of a spec with `vocabulary` token embeddings, on both sides of an encoder-decoder."""
    if spec.encoder is not None and spec.encoder.embed.vocab != spec.embed.vocab:
        raise UserError("tokens cannot be added: the encoder and the decoder of this model have different vocabularies")
    encoder = with_vocabulary(spec.encoder, vocabulary) if spec.encoder else None
    return replace(spec, embed=replace(spec.embed, vocab=vocabulary), encoder=encoder)


def tokenizer_of(directory: str | Path, vocabulary: int, added: tuple[str, ...] = ()) -> "PreTrainedTokenizerFast":
    """The directory's fast tokenizer (transformers), for a model with embeddings of `vocabulary` tokens.

    It includes the tokens `added`; only they may have ids beyond the embeddings.
    """
    tokenizer = read_tokenizer(directory)
    raise_problems(vocabulary_problems(tokenizer, directory))
    tokenizer.add_tokens(list(added))
    numbers = [item for item in tokenizer.get_vocab().items() if item[0] not in added]
    largest = max(numbers, key=lambda item: item[1])
    if largest[1] >= vocabulary:
        raise_problems(
            [
                f"the tokenizer in {directory} has the token {largest[0]!r} with id {largest[1]}, the model's "
                f"embeddings end at {vocabulary - 1}: use the tokenizer of the model, or, to train with new tokens, "
                "name all of them in config.add_tokens"
            ]
        )
    return tokenizer


def _directory(model: str) -> Path:
    local = os.path.expanduser(model)
    if os.path.isdir(local):
        return Path(local)
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    try:
        for weights in ("*.safetensors", "pytorch_model*.bin", "flax_model.msgpack"):
            files = [weights, "*_Dense/pytorch_model.bin", "*.json", "*.txt", "*.model", "*.spm", "*.jinja"]
            directory = Path(snapshot_download(model, allow_patterns=files))
            if has_weights(directory):
                break
        return directory
    except (OSError, HFValidationError) as error:
        raise UserError(
            f"model {truncated_repr(model)} is not a local directory and could not be downloaded from the Hub: "
            f"{_first_line(error)}"
        ) from None


def _kind_of(pretrained: Pretrained) -> str:
    named = (pretrained.raw.get("architectures") or [None])[0]
    for kind, architecture in pretrained.family.architectures.items():
        if architecture == named:
            return kind
    # The backbone of a model with an unknown head can be used, but only if the user asks for a head.
    if named is None:
        return "none"
    raise UserError(
        f"{pretrained.directory}/config.json names the architecture {clipped(named)}, whose head is not supported; "
        f"choose one: {', '.join(pretrained.family.architectures)}"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
