"""T5 from random weights: span corruption of concatenated documents.

--config=configs/pretrain_t5.py reads C4 from the hub, or with :FILE a file whose column `text` holds
documents. For a tokenizer without the sentinels <extra_id_0>, <extra_id_1>, ..., set config.add_tokens.
"""

from jaxft.config import Config
from jaxft.data import Chunk, Data
from jaxft.optim.adafactor import Adafactor
from jaxft.optim.schedule import InverseSqrt
from jaxft.tasks.span_corruption import SpanCorruption


def get_config(file: str = "") -> Config:
    """Rates, batch and steps are those of Raffel et al. 2020, section 3.1.2: 568 tokens become 512 and 114."""
    return Config(
        model="google-t5/t5-base",
        init="random",
        task=SpanCorruption(),
        data=Data(path=file) if file else Data(path="allenai/c4", name="en", split="train"),
        batching=Chunk(length=568),
        optim=Adafactor(relative=True),
        schedule=InverseSqrt(warmup=10_000),
        dropout=0.0,
        clip=None,
        lr=0.01,
        batch=128,
        steps=524_288,
        max_len=568,
        log_every=100,
    )
