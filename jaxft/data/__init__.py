"""From files to batches of numpy arrays: sources, encoded examples, row builders, and the order of a run."""

from jaxft.data.augment import Augmented
from jaxft.data.batching import Chunk, Pack, Pad
from jaxft.data.blank import Blanked
from jaxft.data.duplicates import Deduplicated
from jaxft.data.folds import Fold
from jaxft.data.source import Data
from jaxft.data.tfds import TFDS

__all__ = ["TFDS", "Augmented", "Blanked", "Chunk", "Data", "Deduplicated", "Fold", "Pack", "Pad"]
