"""An example: what a task makes of a source row, or of one window of it, before batches are filled."""

from typing import Any, TypedDict

import numpy as np

Row = dict[str, Any]  # a source row: column name -> Python value


class Example(TypedDict, total=False):
    """`Task.encode` makes examples once per run; `Task.random_transform` makes another one of each at every visit.

    Shapes: n tokens, k predictions (positions that the head reads), m decoder tokens. data/batch.py writes the keys of
    the first group into batches (models/batch.py).
    """

    tokens: np.ndarray  # int32 (n,)
    types: np.ndarray  # int32 (n,) token type ids; absent: the tokenizer gives none
    sub_texts: np.ndarray  # int32 (n,) examples of several texts: which one a token is of, from 0
    at: np.ndarray  # int32 (k,) positions that the head reads; absent: it reads all n, and k is n
    decoder_tokens: np.ndarray  # int32 (m,) encoder-decoder models: the decoder's text, if it is another one; no `at`
    targets: np.ndarray  # int32 or float32 (k,) or (k, classes)
    weights: np.ndarray  # float32 (k,), 0 where there is nothing to learn
    bytes: np.ndarray  # int32 (k,) language models: the bytes of text that a target stands for
    digests: np.ndarray  # int32 (k, 2) embeddings: 64 bits of each text's tokens, equal for equal texts only
    pair_at: np.ndarray  # int32 (1,) the position that the sentence-pair head reads
    pair_targets: np.ndarray  # int32 (1,)
    pair_weights: np.ndarray  # float32 (1,)

    # Counted in the set's DataReport, then dropped.
    truncated: bool  # whether tokens were cut off
    empty: bool  # whether all tokens are special ones
    notes: dict[str, int]  # further numbers, by words that say what they count
    fault: tuple[str, str]  # what is wrong with the row: the kind of fault, and a text for this row

    # Read by the task itself, in `random_transform` or `evaluate_predictions`.
    words: np.ndarray  # int32 (n,) masked words: the word that a token belongs to, -1 for special tokens
    sizes: np.ndarray  # int32 (n,) language models: the bytes of text that a token stands for
    starts: np.ndarray  # int32 (sentences,) denoising: the first token of each sentence
    ordinary: np.ndarray  # bool (n,) replaced tokens: which tokens are not special
    fakes: np.ndarray  # int32 replaced tokens: ids to draw replacements from
    offsets: np.ndarray  # int32 (n, 2) question answering: characters of the context that a token covers, -1 for none
    text: np.ndarray  # int32 sentence pairs: tokens of a piece of text, without special tokens
    cuts: np.ndarray  # int32 sentence pairs: where `text` may be cut in two
    other: np.ndarray  # int32 sentence pairs: tokens of another text
    other_words: np.ndarray  # int32 sentence pairs: as `words`, for `other`
