"""Full fine-tuning: all parameters train."""

from typing import ClassVar

from jaxft.config.component import config
from jaxft.tune.base import Tunable


@config
class Full:
    """All parameters train."""

    lr_scale: ClassVar[float] = 1.0  # tune/learning_rate.py

    def select(self, model: Tunable) -> set[str]:
        """See tune/base.py."""
        return set(model.roles)

    def adapters(self, model: Tunable) -> dict[str, object]:
        """None."""
        return {}
