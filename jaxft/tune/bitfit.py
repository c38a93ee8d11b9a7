"""BitFit (Ben Zaken et al. 2022): the biases train, and the head."""

from jaxft.config.component import config


@config
class Bitfit:
    def select(self, names: list[str], layers: int) -> set[str]:
        return {name for name in names if name.endswith(".bias") or name.startswith("head.")}
