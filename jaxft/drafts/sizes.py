"""Lengths of texts in tokens, and the sizes of a run that follow from them and from the number of rows."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from jaxft.host import strict_json
from jaxft.models.checkpoint.tokenizer import read_tokenizer

IDEOGRAPHS = "\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af"  # kana, Han and Hangul, of which each character is a word
WORD = re.compile(rf"[{IDEOGRAPHS}]|[^\W{IDEOGRAPHS}]+|[^\w\s]")
PIECES = 1.4  # tokens of a word, for an estimate without a tokenizer
UNIT = 16  # max_len is a multiple of it
LONGEST = 512  # tokens, where the model does not say what it can read
UPDATES = 300  # that a run should have


@dataclass(frozen=True)
class Lengths:
    """Tokens of the inputs that were looked at; `counted` by the model's tokenizer, or else estimated."""

    tokens: np.ndarray
    counted: bool
    most: int  # that the model can read

    def max_len(self, share: float) -> int:
        """The length that holds this share of the inputs, if the model can read it."""
        wanted = math.ceil(float(np.quantile(self.tokens, share)))
        return min(self.most, max(UNIT, math.ceil(wanted / UNIT) * UNIT))

    def described(self, max_len: int) -> str:
        median, longest, cut = int(np.median(self.tokens)), self.tokens.max(), int((self.tokens > max_len).sum())
        how = "tokens of an input" if self.counted else "tokens of an input, estimated without the tokenizer"
        return f"{how}: half have up to {median}, the longest {longest}; {cut:,} of {len(self.tokens):,} are longer"


def text_lengths(inputs: Sequence[Sequence[str]], model: str | None) -> Lengths:
    """The lengths of inputs, each of which has one text or more; `model` is a local directory, or None."""
    if model is None or not Path(model).is_dir():
        words = [sum(len(WORD.findall(text)) for text in texts) for texts in inputs]
        return Lengths(np.ceil(PIECES * np.array(words)).astype(int) + 2, False, LONGEST)
    tokenizer = read_tokenizer(model)
    special = tokenizer.num_special_tokens_to_add(pair=len(inputs[0]) > 1)
    flat = [text for texts in inputs for text in texts]
    counts = iter([len(ids) for ids in tokenizer(flat, add_special_tokens=False, verbose=False)["input_ids"]])
    tokens = np.array([sum(next(counts) for _ in texts) + special for texts in inputs])
    return Lengths(tokens, True, _most(model, tokenizer))


def _most(model: str, tokenizer: Any) -> int:
    """The tokens that a model can read, as its directory says; at most LONGEST."""
    settings = strict_json.parse((Path(model) / "config.json").read_bytes())
    positions = settings.get("max_position_embeddings") or LONGEST
    return int(min(positions, tokenizer.model_max_length, LONGEST))


def batch_of(rows: int) -> int:
    """Rows per update: fewer where there are few rows, so that there are updates enough."""
    return 32 if rows >= 2000 else 16 if rows >= 320 else 8


def epochs_of(rows: int, batch: int) -> int:
    """From 3 to 20, for about UPDATES updates."""
    return min(20, max(3, math.ceil(UPDATES * batch / rows)))


def parameters_of(model: str | None) -> int | None:
    """The parameters in the safetensors files of a local directory; None if there are none."""
    files = sorted(Path(model).glob("*.safetensors")) if model is not None else []
    count = 0
    for file in files:
        with safe_open(file, "np") as tensors:
            count += sum(math.prod(tensors.get_slice(name).get_shape()) for name in tensors.keys())
    return count or None
