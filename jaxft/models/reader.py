"""Read config.json so that nothing in it is overlooked: a setting that no code asked for is an error."""

import json
from pathlib import Path

from jaxft.problems import raise_problems

# Settings that say nothing about the numbers of a forward pass: bookkeeping, generation, training options of others.
IGNORED = frozenset(
    """_name_or_path architectures model_type transformers_version dtype torch_dtype id2label label2id problem_type
    num_labels finetuning_task use_cache initializer_range return_dict output_attentions output_hidden_states
    chunk_size_feed_forward gradient_checkpointing pretraining_tp tokenizer_class task_specific_params
    bos_token_id eos_token_id pad_token_id sep_token_id cls_token_id mask_token_id unk_token_id decoder_start_token_id
    max_length max_new_tokens do_sample temperature top_k top_p num_beams _attn_implementation auto_map
    classifier_dropout head_type directionality pruned_heads""".split()
)


class ConfigReader:
    """config.json as attributes; remembers what was read.

    `values` are the settings under transformers' canonical names, `defaults` those of an empty config of the same type.
    """

    def __init__(self, values: dict, defaults: dict):
        self._values, self._defaults = values, defaults
        self._read = set()

    def __getattr__(self, name: str):
        if name.startswith("_"):
            raise AttributeError(name)
        if name not in self._values:
            raise AttributeError(f"config.json has no {name!r}")
        self._read.add(name)
        return self._values[name]

    def get(self, name: str, default=None):
        """The setting, or `default` where it is absent or null."""
        self._read.add(name)
        value = self._values.get(name)
        return default if value is None else value

    def expect(self, name: str, value, why: str) -> None:
        """Refuse any other value of a setting which the family does not implement."""
        found = self.get(name, value)
        if found != value:
            raise_problems([f"config.json: {name}={found!r} is not supported, only {value!r}: {why}"])

    def ignore(self, *names: str) -> None:
        """Settings without effect in this family, whatever they say."""
        self._read.update(names)

    def check(self) -> None:
        """Raise UserError for every setting that differs from its default and was never read."""
        unread = [
            name
            for name, value in self._values.items()
            if name not in self._read | IGNORED
            and value not in (None, self._defaults.get(name))
            and (value is not False or self._defaults.get(name))  # off by default and off: nothing is lost
        ]
        raise_problems(
            [
                f"config.json: {name}={self._values[name]!r} is not read by jaxft's {self._values.get('model_type')} "
                f"(its default is {self._defaults.get(name)!r}); the model would not be the one that was trained"
                for name in sorted(unread)
            ]
        )


def read_raw(directory) -> dict:
    """The config.json of a Hugging Face directory as it stands."""
    file = Path(directory) / "config.json"
    try:
        raw = json.loads(file.read_bytes())
    except ValueError as error:
        raise_problems([f"{file} is no JSON: {error}"])
    if not isinstance(raw, dict) or not isinstance(raw.get("model_type"), str):
        raise_problems([f"{file} has no model_type: not a Hugging Face model directory?"])
    return raw


def read_config(directory, raw: dict) -> ConfigReader:
    """A reader of the canonical form of `raw`, the config.json in `directory`."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    try:
        values = AutoConfig.from_pretrained(str(directory)).to_dict()
    except (ValueError, TypeError, KeyError, StrictDataclassError) as error:
        raise_problems([f"{directory}/config.json is refused by transformers: {error}"])
    return ConfigReader(values, AutoConfig.for_model(raw["model_type"]).to_dict())
