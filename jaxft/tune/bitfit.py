"""BitFit (Ben Zaken et al. 2022): only biases and the head train."""

from jaxft.config.component import config


@config
class Bitfit:
    """Biases and the head train."""

    def select(self, roles: dict[str, str], layers: int) -> set[str]:
        """See tune/base.py."""
        return {name for name, role in roles.items() if role == "bias" or name.startswith("head.")}
