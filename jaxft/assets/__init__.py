"""The model and the data that come with jaxft."""

from pathlib import Path


def path(name: str) -> str:
    """Where an asset lies: `tiny-encoder`, `brown-genres/train.csv`."""
    return str(Path(__file__).parent / name)
