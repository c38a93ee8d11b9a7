"""Full fine-tuning: everything trains."""

from jaxft.config.component import config


@config
class Full:
    def select(self, names: list[str], layers: int) -> set[str]:
        """The names (models/params.py) that train; `layers` is how many layers the model has."""
        return set(names)
