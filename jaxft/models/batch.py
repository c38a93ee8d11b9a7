"""The arrays of a batch: what data preparation writes, and what the model, the losses and the evaluation read."""

from typing import TypedDict

import jax


class Batch(TypedDict, total=False):
    """Rows of one length, each holding one example (padded) or several (packed).

    At run time a batch is a plain dict, hence a pytree, and has only the keys that the model and the task use. In
    training and evaluation data/batch.py writes them, as NumPy arrays, from the examples of `Task.encode` and
    `Task.random_transform`; inference/model.py writes those that the model reads.

    Shapes: b rows, n tokens per row, k predictions per row (positions that the head reads), m decoder tokens per row,
    p sentence pairs per row. Arrays are int32 unless stated otherwise.
    """

    # Read by the model.
    tokens: jax.Array  # (b, n) token ids; where segments are 0, the padding id
    segments: jax.Array  # (b, n) the texts of a row, numbered from 1; 0 is padding. Attention joins equal segments only
    positions: jax.Array  # (b, n) from 0 in every segment
    types: jax.Array  # (b, n) token type ids; absent: all are 0
    pixels: jax.Array  # float32 (b, channels, height, width), instead of tokens: images
    features: jax.Array  # float32 (b, mel bands, frames), instead of tokens: spectrograms

    # Read by encoder-decoder models. If these are absent, the decoder reads `tokens`, shifted by one. If they are
    # present, `at` and the targets refer to the decoder's positions.
    decoder_tokens: jax.Array  # (b, m) token ids
    decoder_segments: jax.Array  # (b, m) the segment in `segments` of the text that a token belongs to; 0 is padding
    decoder_positions: jax.Array  # (b, m) from 0 in every segment

    # Read by the model, and by losses that pool hidden states.
    at: jax.Array  # (b, k) positions that the head reads; absent: it reads all, and k is n
    pair_at: jax.Array  # (b, p) positions that the sentence-pair head reads (`Outputs.pair_logits`)

    # Read by `Task.loss`, `Task.prepare_batch` and `Task.eval_outputs`.
    targets: jax.Array  # int32 or float32 (b, k) or (b, k, classes), as the task defines them
    weights: jax.Array  # float32 (b, k), 0 where there is nothing to learn
    bytes: jax.Array  # (b, k) language models: the bytes of text that a target stands for
    digests: jax.Array  # (b, k, 2) embeddings: 64 bits of each text's tokens, equal for equal texts only
    example_ids: jax.Array  # (b, k) examples of several texts: which example of its row it is of, from 1; 0 for none
    pair_targets: jax.Array  # (b, p) class ids of the sentence pairs
    pair_weights: jax.Array  # float32 (b, p), 0 where there is no pair

    # Read by evaluation; training does not send it to the devices.
    index: jax.Array  # (b, k) number of the example that a prediction belongs to, -1 for none
