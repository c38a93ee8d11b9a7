"""Full fine-tuning: all parameters train."""

from jaxft.config.component import config
from jaxft.tune.base import Tunable


@config
class Full:
    """All parameters train."""

    def select(self, model: Tunable) -> set[str]:
        """See tune/base.py."""
        return set(model.roles)

    def adapters(self, model: Tunable) -> dict[str, object]:
        """None."""
        return {}
