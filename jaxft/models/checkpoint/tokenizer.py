"""Reads a model directory's tokenizer with transformers, and checks it before any text is encoded."""

import importlib.util
import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxft.host.strict_json import parse
from jaxft.problems import UserError, raise_problems, truncated_repr

if TYPE_CHECKING:  # importing transformers takes seconds
    from transformers import PreTrainedTokenizerFast

log = logging.getLogger("jaxft")

NOTABLE = 0.01  # share of unknown tokens from which on a warning is logged
RARE = "\U000103a0"  # OLD PERSIAN SIGN A, which few vocabularies have
PLAIN = "PreTrainedTokenizerFast"  # transformers' class that uses tokenizer.json without changes


def read_tokenizer(directory: str | Path) -> "PreTrainedTokenizerFast":
    """The fast tokenizer of a directory. Raises UserError if there is none, or if it cannot be read."""
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    raise_problems(_class_problems(directory) + _package_problems(directory))
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(directory), trust_remote_code=False)
    except Exception as error:  # three packages raise many types for wrong files
        raise UserError(
            f"the tokenizer in {directory} cannot be read ({_first_line(error)}): copy its files again"
        ) from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise UserError(
            f"{directory}: transformers has no fast version of {type(tokenizer).__name__}, and jaxft needs the "
            "character offsets of a fast tokenizer: use a model that has one"
        )
    files = sorted({"tokenizer.json", *tokenizer.vocab_files_names.values()})
    if not any((Path(directory) / name).exists() for name in files):
        # Without any of them transformers makes a tokenizer without a vocabulary.
        raise UserError(f"{directory} has no tokenizer ({' or '.join(files)}): copy the model's own files")
    return tokenizer


def vocabulary_problems(tokenizer: "PreTrainedTokenizerFast", directory: str | Path) -> list[str]:
    """Problems of the vocabulary: empty, two tokens with one id, no unknown token."""
    vocabulary = tokenizer.get_vocab()
    if not vocabulary:
        return [f"the tokenizer in {directory} has no tokens"]
    problems = []
    for number, count in Counter(vocabulary.values()).items():
        if count > 1:
            same = ", ".join(sorted(truncated_repr(token) for token, own in vocabulary.items() if own == number)[:3])
            problems.append(
                f"the tokenizer in {directory} gives {count} tokens the id {number} ({same}): correct the "
                "vocabulary in tokenizer.json, where each token needs an id of its own"
            )
    try:
        tokenizer(RARE)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # the Rust library's panics are not an Exception
        problems.append(
            f"the tokenizer in {directory} fails at unknown characters ({_first_line(error)}): add its unknown "
            "token to the vocabulary in tokenizer.json, or set unk_token of its model to a token that is there"
        )
    return problems[:3]


def unknown_id(tokenizer: "PreTrainedTokenizerFast") -> int | None:
    """The id of the unknown token, named in tokenizer_config.json or in tokenizer.json; None if there is none."""
    if tokenizer.unk_token_id is not None:
        return tokenizer.unk_token_id
    name = getattr(tokenizer.backend_tokenizer.model, "unk_token", None)  # absent in Unigram
    return None if name is None else tokenizer.backend_tokenizer.token_to_id(name)


def unknown_counts(tokens: np.ndarray, tokenizer: "PreTrainedTokenizerFast") -> dict[str, int]:
    """Of token ids (n,), the number that are not special (`ordinary`), and the number of unknown ones (`unknown`)."""
    number = unknown_id(tokenizer)
    special = np.setdiff1d(tokenizer.all_special_ids, [] if number is None else [number])
    unknown = 0 if number is None else int(np.count_nonzero(tokens == number))
    return {"unknown": unknown, "ordinary": int(np.count_nonzero(~np.isin(tokens, special)))}


def log_unknown(rows: Sequence[Sequence[int]], tokenizer: "PreTrainedTokenizerFast") -> None:
    """Logs a warning if more than NOTABLE of the texts' tokens are unknown; each row is the token ids of a text."""
    if not rows:
        return
    counts = unknown_counts(np.concatenate(rows), tokenizer)
    share = counts["unknown"] / max(counts["ordinary"], 1)
    if share > NOTABLE:
        log.warning("%s of %s tokens (%.1f%%) are unknown to the tokenizer", *counts.values(), 100 * share)


def padding_id(tokenizer: "PreTrainedTokenizerFast") -> int:
    """The token id of padding: the padding token, else the end of text, else 0; attention never reads it."""
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(number for number in known if number is not None)


def _class_problems(directory: str | Path) -> list[str]:
    """An unknown class in tokenizer_config.json, for which transformers reads tokenizer.json without a warning."""
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    file = Path(directory) / "tokenizer_config.json"
    try:
        settings = parse(file.read_bytes())
    except OSError:
        return []
    except ValueError as error:
        return [f"{file}: {error}: copy it again"]
    if not isinstance(settings, dict):
        return [f"{file} does not hold a JSON object: copy it again"]
    name = settings.get("tokenizer_class")
    if name is None or isinstance(name, str) and tokenizer_class_from_name(name) is not None:
        return []
    return [
        f"{file}: transformers has no tokenizer_class {truncated_repr(name)}: write {PLAIN!r} to use tokenizer.json "
        "without changes"
    ]


def _package_problems(directory: str | Path) -> list[str]:
    """A SentencePiece file without tokenizer.json needs two packages."""
    models = sorted(file.name for pattern in ("*.model", "*.spm") for file in Path(directory).glob(pattern))
    if not models or (Path(directory) / "tokenizer.json").exists():
        return []
    if all(importlib.util.find_spec(package) for package in ("sentencepiece", "google.protobuf")):
        return []
    return [f"{directory} has its tokenizer as {models[0]} only: pip install sentencepiece protobuf to read it"]


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
