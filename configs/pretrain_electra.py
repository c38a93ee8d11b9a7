"""ELECTRA from random weights: replaced-token detection.

--config=configs/pretrain_electra.py reads the English Wikipedia from the hub, or with :FILE a file whose
column `text` holds documents. Replacements are drawn from the tokens of the texts; no generator is trained.
"""

from jaxft.config import Config
from jaxft.data import Data, Pack
from jaxft.optim.adamw import AdamW
from jaxft.optim.schedule import Linear
from jaxft.tasks.replaced_tokens import ReplacedTokens


def get_config(file: str = "") -> Config:
    """Rates, batch and steps are those of the small model of Clark et al. 2020, table 6."""
    return Config(
        model="google/electra-small-discriminator",
        init="random",
        task=ReplacedTokens(),
        data=Data(path=file) if file else Data(path="wikimedia/wikipedia", name="20231101.en", split="train"),
        batching=Pack(length=512),
        optim=AdamW(decay=0.01, eps=1e-6),
        schedule=Linear(warmup=10_000),
        clip=None,
        lr=5e-4,
        batch=128,
        steps=1_000_000,
        max_len=128,
        log_every=100,
    )
