"""The peak learning rate of `config.lr="auto"`."""

from typing import ClassVar, Protocol, runtime_checkable

from jaxft.problems import UserError


@runtime_checkable
class Rated(Protocol):
    """A tuning method that knows its learning rate."""

    lr_scale: ClassVar[float]  # its learning rate / that of full tuning


def full_rate(parameters: int | None) -> float:
    """Of full tuning; small models need larger ones (Turc et al. 2019 choose from 3e-5 to 3e-4)."""
    if parameters is None or parameters >= 50e6:
        return 3e-5
    return 1e-4 if parameters >= 10e6 else 5e-4


def peak_rate(tune: object, parameters: int) -> float:
    """Of a tuning method for a model with so many parameters."""
    if not isinstance(tune, Rated):
        raise UserError(f"config.lr is 'auto', but {type(tune).__name__} has no lr_scale: set config.lr to a number")
    return float(f"{tune.lr_scale * full_rate(parameters):.3g}")
