"""A model directory's tokenizer: read by transformers, and checked before any text is encoded."""

import importlib.util
import logging
from collections import Counter
from pathlib import Path

import numpy as np

from jaxft.host.strict_json import parse
from jaxft.problems import UserError, raise_problems, truncated_repr

log = logging.getLogger("jaxft")

NOTABLE = 0.01  # share of unknown tokens that prediction speaks of
RARE = "\U000103a0"  # OLD PERSIAN SIGN A: a letter that few vocabularies have
PLAIN = "PreTrainedTokenizerFast"  # transformers' class that takes tokenizer.json as it stands


def read_tokenizer(directory):
    """The fast tokenizer of a directory. Raises UserError if there is none, or if it cannot be read."""
    from transformers import AutoTokenizer

    raise_problems(_class_problems(directory) + _package_problems(directory))
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(directory), trust_remote_code=False)
    except Exception as error:  # Whatever a wrong file leads to, in three packages.
        raise UserError(
            f"the tokenizer in {directory} cannot be read ({_first_line(error)}): copy its files anew"
        ) from None
    if not tokenizer.is_fast:
        raise UserError(
            f"{directory}: transformers has no fast version of {type(tokenizer).__name__}, and jaxft reads texts with "
            "fast tokenizers only, which say what characters each token stands for: take a model that has one"
        )
    files = sorted({"tokenizer.json", *tokenizer.vocab_files_names.values()})
    if not any((Path(directory) / name).exists() for name in files):
        # Without any of them transformers makes a tokenizer that knows no word.
        raise UserError(f"{directory} has no tokenizer ({' or '.join(files)}): copy the files of the model's own")
    return tokenizer


def vocabulary_problems(tokenizer, directory) -> list[str]:
    """What is wrong with the tokens themselves."""
    vocabulary = tokenizer.get_vocab()
    if not vocabulary:
        return [f"the tokenizer in {directory} has no tokens"]
    problems = []
    for number, count in Counter(vocabulary.values()).items():
        if count > 1:
            same = ", ".join(sorted(truncated_repr(token) for token, own in vocabulary.items() if own == number)[:3])
            problems.append(
                f"the tokenizer in {directory} gives {count} tokens the number {number} ({same}): correct the "
                "vocabulary in tokenizer.json, where each token has a number of its own"
            )
    try:
        tokenizer(RARE)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # what the Rust library raises is of no kind of its own; its panics are no Exception
        problems.append(
            f"the tokenizer in {directory} fails at characters that it does not know ({_first_line(error)}): add its "
            "unknown token to the vocabulary in tokenizer.json, or name one that is there as unk_token of its model"
        )
    return problems[:3]


def unknown_id(tokenizer) -> int | None:
    """The number of the token that stands for what the tokenizer does not know; None if it has none.

    Also where tokenizer_config.json does not name it.
    """
    if tokenizer.unk_token_id is not None:
        return tokenizer.unk_token_id
    name = getattr(tokenizer.backend_tokenizer.model, "unk_token", None)  # which Unigram does not have
    return None if name is None else tokenizer.backend_tokenizer.token_to_id(name)


def unknown_counts(tokens: np.ndarray, tokenizer) -> dict[str, int]:
    """`ordinary`, how many of the tokens (n,) are not special, and `unknown`, how many of those stand for what the
    tokenizer does not know."""
    number = unknown_id(tokenizer)
    special = np.setdiff1d(tokenizer.all_special_ids, [] if number is None else [number])
    unknown = 0 if number is None else int(np.count_nonzero(tokens == number))
    return {"unknown": unknown, "ordinary": int(np.count_nonzero(~np.isin(tokens, special)))}


def log_unknown(rows: list, tokenizer) -> None:
    """Says how many of the tokens of texts, a sequence of numbers each, the tokenizer does not know, if many."""
    if not rows:
        return
    counts = unknown_counts(np.concatenate(rows), tokenizer)
    share = counts["unknown"] / max(counts["ordinary"], 1)
    if share > NOTABLE:
        log.warning("%s of %s tokens (%.1f%%) are unknown to the tokenizer", *counts.values(), 100 * share)


def padding_id(tokenizer) -> int:
    """The number that fills rows: of the padding token, else of the end of text, else 0; attention never sees it."""
    known = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(number for number in known if number is not None)


def _class_problems(directory) -> list[str]:
    """transformers reads tokenizer.json without a word when it does not know the class that the settings name."""
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
        "as it stands"
    ]


def _package_problems(directory) -> list[str]:
    """A SentencePiece file alone needs the package that reads it."""
    models = sorted(file.name for pattern in ("*.model", "*.spm") for file in Path(directory).glob(pattern))
    if not models or (Path(directory) / "tokenizer.json").exists():
        return []
    if all(importlib.util.find_spec(package) for package in ("sentencepiece", "google.protobuf")):
        return []
    return [f"{directory} has its tokenizer as {models[0]} only: pip install sentencepiece protobuf, which read it"]


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
