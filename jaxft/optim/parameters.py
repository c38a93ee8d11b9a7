"""What an optimizer knows of the parameters that it updates."""

from typing import NamedTuple

DECAYED = ("kernel", "embedding")


class Parameter(NamedTuple):
    role: str  # models/layers/basic.py
    stacked: bool  # whether its array holds one row a layer


Parameters = dict[str, Parameter]  # by stored path


def decay_mask(parameters: Parameters) -> dict[str, bool]:
    """Stored path -> whether weight decay shrinks it: kernels and embeddings, no biases and no norms."""
    return {path: parameter.role in DECAYED for path, parameter in parameters.items()}
