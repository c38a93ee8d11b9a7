"""BitFit (Ben Zaken et al. 2022): the biases train, and the head."""

from jaxft.config.component import config


@config
class Bitfit:
    def select(self, roles: dict[str, str], layers: int) -> set[str]:
        return {name for name, role in roles.items() if role == "bias" or name.startswith("head.")}
