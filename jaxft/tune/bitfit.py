"""BitFit (Ben Zaken et al. 2022): only biases and the head train."""

from typing import ClassVar

from jaxft.config.component import config
from jaxft.tune.base import Tunable


@config
class Bitfit:
    """Biases and the head train."""

    lr_scale: ClassVar[float] = 10.0  # tune/learning_rate.py

    def select(self, model: Tunable) -> set[str]:
        """See tune/base.py."""
        return {name for name, role in model.roles.items() if role == "bias" or name.startswith("head.")}

    def adapters(self, model: Tunable) -> dict[str, object]:
        """None."""
        return {}
