"""What optimizers know about the parameters that they update."""

from typing import NamedTuple

DECAYED = ("kernel", "embedding")


class Parameter(NamedTuple):
    """One array of parameters."""

    role: str  # models/layers/basic.py
    stacked: bool  # whether its first axis is that of layers


Parameters = dict[str, Parameter]  # by stored path


def decay_mask(parameters: Parameters) -> dict[str, bool]:
    """Stored path -> whether weight decay applies: to kernels and embeddings, not to biases and norms."""
    return {path: parameter.role in DECAYED for path, parameter in parameters.items()}
