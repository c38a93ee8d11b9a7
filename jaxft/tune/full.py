"""Full fine-tuning: all parameters train."""

from jaxft.config.component import config


@config
class Full:
    """All parameters train."""

    def select(self, roles: dict[str, str], layers: int) -> set[str]:
        """See tune/base.py."""
        return set(roles)
