"""Full fine-tuning: everything trains."""

from jaxft.config.component import config


@config
class Full:
    def select(self, roles: dict[str, str], layers: int) -> set[str]:
        """The names that train. `roles` has the role of each name (models/params.py), `layers` is how many layers the
        model has."""
        return set(roles)
