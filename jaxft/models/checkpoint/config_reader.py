"""Reads config.json and raises an error for every setting that no code has read."""

import logging
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from jaxft.host import strict_json
from jaxft.problems import UserError, clipped, raise_problems, reading, truncated_repr

log = logging.getLogger("jaxft")

# Settings without effect on a forward pass: bookkeeping, generation, other libraries' training options.
IGNORED = frozenset(
    """_name_or_path architectures model_type transformers_version dtype torch_dtype id2label label2id problem_type
    num_labels finetuning_task use_cache initializer_range return_dict output_attentions output_hidden_states
    chunk_size_feed_forward gradient_checkpointing pretraining_tp tokenizer_class task_specific_params
    is_encoder_decoder output_past eos_token_ids bos_token_id eos_token_id pad_token_id
    sep_token_id cls_token_id mask_token_id unk_token_id decoder_start_token_id
    max_length max_new_tokens do_sample temperature top_k top_p num_beams _attn_implementation auto_map
    classifier_dropout head_type directionality pruned_heads""".split()
)


# Settings that transformers' models read although their config classes do not declare them. No model reads any other
# undeclared setting: those are other libraries' bookkeeping, and options of former versions.
UNDECLARED = frozenset("quantization_config per_layer_config position_embedding_type head_dim layer_types".split())

MOST = 2**31 - 1  # largest integer: sizes are int32 on the device
MOST_LAYERS = 10_000


def _never_differ(first: str, second: str) -> bool:
    """For a config.json without a checkpoint."""
    return False


class ConfigReader:
    """config.json as attributes; remembers which settings were read.

    `values` are the settings under transformers' canonical names, `defaults` those of an empty config of the same type.
    A setting that is read must have the type and range of its default; otherwise a UserError is raised. `differ(a, b)`
    tells whether the checkpoint has both tensors, with different values.
    """

    def __init__(
        self, values: Mapping[str, Any], defaults: Mapping[str, Any], differ: Callable[[str, str], bool] = _never_differ
    ):
        self._values, self._defaults = values, defaults
        self._read: set[str] = set()
        self._parts: dict[str, ConfigReader] = {}
        self.differ = differ

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in self._values:
            raise_problems([f"config.json has no {name!r}"])
        self._read.add(name)
        return self._checked(name, self._values[name], self._defaults.get(name))

    def __iter__(self) -> Iterator[str]:
        """Names of the settings."""
        return iter(self._values)

    def get(self, name: str, default: Any = None) -> Any:
        """The setting, or `default` where it is absent or null."""
        self._read.add(name)
        value = self._values.get(name)
        return default if value is None else self._checked(name, value, default)

    def section(self, name: str, defaults: Mapping[str, Any]) -> "ConfigReader":
        """A setting that is an object of settings; `defaults` give their types and ranges."""
        value = getattr(self, name)
        if not isinstance(value, dict):
            raise_problems([f"config.json: {name}={truncated_repr(value)}, expected an object"])
        return ConfigReader(value, defaults)

    def part(self, name: str) -> "ConfigReader":
        """The settings of a part of the model, which `check` includes."""
        if name not in self._parts:
            self._parts[name] = self.section(name, self._defaults[name])
        return self._parts[name]

    def quotient(self, name: str, divisor: str) -> int:
        """An integer divided by another, which must divide it without a remainder."""
        a, b = getattr(self, name), getattr(self, divisor)
        if a % b:
            raise_problems([f"config.json: {name}={a} is not a multiple of {divisor}={b}"])
        return a // b

    def pair(self, name: str) -> tuple[int, int]:
        """Two positive integers, given as a list or as one number for both."""
        value = self._values.get(name)
        both = [value, value] if type(value) is int else value
        if not isinstance(both, list | tuple) or len(both) != 2 or any(type(n) is not int or n < 1 for n in both):
            raise UserError(f"config.json: {name}={truncated_repr(value)}, expected a whole number, or a list of two")
        self._read.add(name)
        first, second = both
        return first, second

    def of_layers(self, name: str, layers: str = "num_hidden_layers", default: list | None = None) -> list:
        """A setting that is a list with one entry per layer; `layers` names the setting with the number of layers."""
        count, values = getattr(self, layers), self.get(name, default)
        if not isinstance(values, list) or len(values) != count:
            raise_problems(
                [
                    f"config.json: {name}={truncated_repr(values)}, expected a list of {count} entries, one for each "
                    "layer"
                ]
            )
        return values

    def _checked(self, name: str, value: Any, like: Any) -> Any:
        if wrong := _wrong(name, value, like):
            raise_problems([f"config.json: {name}={truncated_repr(value)}, expected {wrong}"])
        return value

    def expect(self, name: str, value: Any, why: str) -> None:
        """Raises UserError for any value but `value`, which is the only one that the family implements."""
        found = self.get(name, value)
        if found != value:
            raise_problems([f"config.json: {name}={truncated_repr(found)} is not supported, only {value!r}: {why}"])

    def ignore(self, *names: str) -> None:
        """Marks settings as read that have no effect in this family."""
        self._read.update(names)

    def check(self) -> None:
        """Raises UserError for every setting that differs from its default and was never read.

        Settings that transformers does not know either are ignored, and logged.
        """
        unread = [
            name
            for name, value in self._values.items()
            if name not in self._read | IGNORED
            and value not in (None, self._defaults.get(name))
            and (value is not False or self._defaults.get(name))  # an option that is off, and off or absent by default
        ]
        strange = [name for name in unread if name not in self._defaults and name not in UNDECLARED]
        if strange:
            log.info("config.json: %s: not known to transformers, ignored", ", ".join(sorted(strange)))
        unread = [name for name in unread if name not in strange]
        if self._values.get("is_causal", True) is False:  # undeclared, but transformers' masks depend on it
            unread.append("is_causal")
        raise_problems(
            [
                f"config.json: {name}={truncated_repr(self._values[name])} is not read by jaxft's "
                f"{self._values.get('model_type')} (its default is "
                f"{truncated_repr(self._defaults.get(name))}); the model would not be the one that was trained"
                for name in sorted(unread)
            ]
        )
        for part in self._parts.values():
            part.check()


def read_raw(directory: str | Path) -> dict[str, Any]:
    """The contents of a Hugging Face directory's config.json, unchanged."""
    file = Path(directory) / "config.json"
    try:
        with reading(file):
            raw = strict_json.parse(file.read_bytes())
    except ValueError as error:
        raise_problems([f"{file} is not valid JSON: {error}"])
    if not isinstance(raw, dict) or not isinstance(raw.get("model_type"), str):
        raise_problems([f"{file} has no model_type: not a Hugging Face model directory?"])
    raise_problems(
        f"{file}: {name}={truncated_repr(raw[name])}, expected {what}"
        for name, (good, what) in BOOKKEEPING.items()
        if raw.get(name) is not None and not good(raw[name])
    )
    return raw


def _names_by_number(table: Any) -> bool:
    if not isinstance(table, dict) or not all(isinstance(name, str) for name in table.values()):
        return False
    return sorted(table, key=lambda key: (len(key), key)) == [str(number) for number in range(len(table))]


def _texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


# Settings without effect on a forward pass that jaxft reads: a check, and a description of valid values.
BOOKKEEPING: dict[str, tuple[Callable[[Any], bool], str]] = {
    "architectures": (_texts, "a list of names"),
    "id2label": (_names_by_number, 'an object of names, {"0": "first", "1": "second", ...}'),
    "num_labels": (lambda value: type(value) is int and value > 0, "a whole number, 1 or more"),
    "dtype": (lambda value: isinstance(value, str), "a name"),
    "torch_dtype": (lambda value: isinstance(value, str), "a name"),
}


def read_config(
    directory: str | Path, raw: Mapping[str, Any], differ: Callable[[str, str], bool] = _never_differ
) -> ConfigReader:
    """A reader of `raw`, the config.json in `directory`, under transformers' canonical names."""
    from transformers import AutoConfig

    try:
        values = AutoConfig.from_pretrained(str(directory), trust_remote_code=False).to_dict()
    except Exception as error:  # transformers raises many types for wrong values
        raise UserError(f"{directory}/config.json is refused by transformers: {clipped(str(error), 1000)}") from None
    return ConfigReader(values, AutoConfig.for_model(raw["model_type"]).to_dict(), differ)


def _wrong(name: str, value: Any, like: Any) -> str | None:
    """Which values a setting may have, by the example `like`; None if `value` is one of them."""
    if isinstance(like, bool):
        return None if isinstance(value, bool) else "true or false"
    if isinstance(like, int | float) and type(value) not in (int, float):
        return "a number"
    if isinstance(like, int):
        least = 0 if name.endswith("_id") else min(like, 1)
        most = MOST_LAYERS if "layer" in name else MOST
        return None if least <= value <= most and value == int(value) else f"a whole number, {least} to {most}"
    if isinstance(like, float):
        share = "drop" in name or "eps" in name
        good = 0 <= value < (1 if share else math.inf)
        return None if good else f"a number of 0 or more{' and less than 1' if share else ''}"
    return None if not isinstance(like, str) or isinstance(value, str) else "a text"
