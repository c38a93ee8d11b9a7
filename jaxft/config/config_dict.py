"""Conversion between `Config` and `ml_collections.ConfigDict`, which a configuration file may return.

The keys are the names of the fields. A component also has the key `name`: {"name": "Classify", "text": "review"}. Its
value is one of COMPONENTS, or "module:Class" for other classes. If the class itself has a field `name` (Data, TFDS),
the key is `class`, which works for all classes. Unset placeholders become None, references are resolved,
locks are ignored.
"""

import dataclasses
import importlib
import typing
from typing import Any

from jaxft.config.component import annotations, as_hinted, find_class, fits, is_config, type_name
from jaxft.config.former_names import present_field
from jaxft.config.other_trainers import suggest_field
from jaxft.config.run import Config
from jaxft.problems import UserError, raise_problems, suggest, truncated_repr

if typing.TYPE_CHECKING:
    from ml_collections import ConfigDict

COMPONENTS = {
    "jaxft.adapters.dora": "DoRA",
    "jaxft.adapters.hira": "HiRA",
    "jaxft.adapters.ia3": "IA3",
    "jaxft.adapters.ln_tuning": "LNTuning",
    "jaxft.adapters.loha": "LoHa",
    "jaxft.adapters.lokr": "LoKr",
    "jaxft.adapters.lora": "LoRA",
    "jaxft.adapters.miss": "MiSS",
    "jaxft.adapters.oft": "OFT",
    "jaxft.adapters.olora": "OLoRA",
    "jaxft.adapters.pissa": "PiSSA",
    "jaxft.adapters.p_tuning": "PTuning",
    "jaxft.adapters.prefix_tuning": "PrefixTuning",
    "jaxft.adapters.prompt_tuning": "PromptTuning",
    "jaxft.data.augment": "Augmented",
    "jaxft.data.batching": "Chunk Pack Pad",
    "jaxft.data.blank": "Blanked",
    "jaxft.data.duplicates": "Deduplicated",
    "jaxft.data.folds": "Fold",
    "jaxft.data.source": "Data",
    "jaxft.data.tfds": "TFDS",
    "jaxft.optim.adafactor": "Adafactor",
    "jaxft.optim.adamw": "AdamW",
    "jaxft.optim.adamw8bit": "AdamW8bit",
    "jaxft.optim.lion": "Lion",
    "jaxft.optim.muon": "Muon",
    "jaxft.optim.schedule": "Constant Cosine InverseSqrt Linear WSD",
    "jaxft.optim.sgd": "SGD",
    "jaxft.quantization.fp4": "FP4",
    "jaxft.quantization.int8": "Int8",
    "jaxft.quantization.nf4": "NF4",
    "jaxft.tasks.classify": "Classify MultiLabel Regress",
    "jaxft.tasks.cloze": "Cloze",
    "jaxft.tasks.contrastive_embedding": "ContrastiveEmbedding Similarity Triplet",
    "jaxft.tasks.denoise": "Denoise",
    "jaxft.tasks.entity_spans": "EntitySpans",
    "jaxft.tasks.grouped_verification": "GroupedVerification",
    "jaxft.tasks.lm": "CausalLM",
    "jaxft.tasks.mlm": "MaskedLM",
    "jaxft.tasks.multiple_choice": "MultipleChoice",
    "jaxft.tasks.pretrain": "NextSentence SentenceOrder",
    "jaxft.tasks.question_answering": "QuestionAnswering",
    "jaxft.tasks.replaced_tokens": "ReplacedTokens",
    "jaxft.tasks.span_corruption": "SpanCorruption",
    "jaxft.tasks.token_classification": "TokenClassification",
    "jaxft.tune.bitfit": "Bitfit",
    "jaxft.tune.full": "Full",
    "jaxft.tune.partial": "Partial",
}
MODULE_OF = {name: module for module, names in COMPONENTS.items() for name in names.split()}


def from_config_dict(values: "ConfigDict") -> Config:
    """The Config of a ConfigDict.

    Raises UserError with all unknown keys, wrong types, missing fields and unset required placeholders.
    """
    problems: list[str] = []
    made = _object(Config, values, "config", problems)
    raise_problems(problems)
    return made


def to_config_dict(cfg: Config) -> "ConfigDict":
    """A ConfigDict that `from_config_dict` turns into an equal Config. Tuples stay tuples."""
    from ml_collections import ConfigDict

    return ConfigDict(_plain(cfg, named=False))


def is_config_dict(value: Any) -> bool:
    """Whether a value is a ConfigDict or a FrozenConfigDict, without importing the library."""
    names = [(cls.__module__.partition(".")[0], cls.__name__) for cls in type(value).__mro__]
    return ("ml_collections", "ConfigDict") in names


def _plain(value: Any, named: bool = True) -> Any:
    if is_config(value):
        cls = type(value)
        name = cls.__name__ if MODULE_OF.get(cls.__name__) == cls.__module__ else f"{cls.__module__}:{cls.__qualname__}"
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        typed = {key for key, hint in annotations(cls).items() if dataclasses.is_dataclass(hint)}
        made = {key: _plain(item, named=key not in typed) for key, item in fields.items()}
        return ({"class" if "name" in made else "name": name} if named else {}) | made
    if isinstance(value, dict):  # evaluation sets by name; the annotation of the field has their class
        return {key: _plain(item, named=False) for key, item in value.items()}
    return value


def _object(cls: type, values: "ConfigDict", where: str, problems: list[str], skip: str | None = None) -> Any:
    """An object of the class; None if something is wrong, which is added to the problems."""
    given: dict[str, Any] = {}
    hints, before = annotations(cls), len(problems)
    fields = {field.name: field for field in dataclasses.fields(cls)}
    for key in values:
        if key == skip:
            continue
        if key not in fields:
            present = present_field(cls, key)
            now = f" It is now called {present!r}." if present else suggest_field(key, list(fields))
            problems.append(f"{where}.{key} is not a field of {cls.__name__}.{now}")
            continue
        given[key] = _value(hints[key], values, key, f"{where}.{key}", problems)
    for key, field in fields.items():
        needed = field.default is field.default_factory is dataclasses.MISSING
        if needed and key not in given:
            problems.append(f"{where}.{key} is missing: {cls.__name__} needs a value for it")
    return None if len(problems) > before else cls(**given)


def _value(hint: Any, values: "ConfigDict", key: str, where: str, problems: list[str]) -> Any:
    from ml_collections.config_dict import RequiredValueError

    try:
        value = values[key]
    except RequiredValueError:
        problems.append(f"{where} is a required placeholder that was not set")
        return None
    if is_config_dict(value):
        return _nested(hint, value, where, problems)
    value = as_hinted(_tuples(value), hint)
    if not fits(value, hint):
        problems.append(f"{where} is {truncated_repr(value)} ({type(value).__name__}), expected {type_name(hint)}")
    return value


def _nested(hint: Any, value: "ConfigDict", where: str, problems: list[str]) -> Any:
    """A component, an object of the annotated class (Mesh), or a dict of such objects (evaluation sets)."""
    if typing.get_origin(hint) is dict:
        kind = typing.get_args(hint)[1]
        return {key: _value(kind, value, key, f"{where}.{key}", problems) for key in value}
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _object(hint, value, where, problems)
    key = "class" if "class" in value else "name"
    name = _value(str, value, key, f"{where}.{key}", problems) if key in value else None
    if not isinstance(name, str):
        if key not in value:
            problems.append(f"{where}.{key} is missing: expected the class of a component, such as 'Classify'")
        return None
    try:
        cls = component_class(name, f"{where}.{key}")
    except UserError as error:
        problems += error.problems
        return None
    return _object(cls, value, where, problems, skip=key)


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value


def component_class(name: str, where: str) -> type:
    """The class of a component, by its name or as "module:Class". Raises UserError; `where` is where it was named."""
    if ":" in name:
        return find_class(name)
    if name not in MODULE_OF:
        raise UserError(f"{where} is {truncated_repr(name)}, which is not a component.{suggest(name, list(MODULE_OF))}")
    return getattr(importlib.import_module(MODULE_OF[name]), name)
