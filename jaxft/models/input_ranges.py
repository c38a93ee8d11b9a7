"""Numbers beyond the end of a table: JAX clamps them silently, so they are looked for on the host."""

import numpy as np

from jaxft.models.spec import Spec

FIXES = {
    "tokens": "take the tokenizer that belongs to the model; what its post-processor adds counts as well",
    "types": 'for a text without types set "model_input_names": ["input_ids", "attention_mask"] in '
    "tokenizer_config.json",
}


def table_sizes(spec: Spec) -> dict[str, int | None]:
    """Key of a batch (models/batch.py) -> rows of the table that its numbers look up; None: there is no table."""
    return {
        "tokens": spec.input_side.embed.vocab,
        "positions": spec.input_side.max_positions,
        "types": spec.embed.types,
        "decoder_tokens": spec.embed.vocab,
        "decoder_positions": spec.max_positions,
    }


def id_problems(arrays: dict[str, np.ndarray], spec: Spec) -> list[str]:
    """A sentence for each array of a batch or of examples that holds a number below 0 or beyond its table."""
    problems = []
    for name, size in table_sizes(spec).items():
        if size is None or name not in arrays or not arrays[name].size:
            continue
        least, most = arrays[name].min(), arrays[name].max()
        if least < 0 or most >= size:
            fix = f": {FIXES[name]}" if name in FIXES else ""
            problems.append(
                f"{name} reach {least if least < 0 else most}, but the model has {size} of them (from 0){fix}"
            )
    return problems
