"""GPT-2 from random weights: every next token of concatenated documents.

--config=configs/pretrain_gpt.py reads OpenWebText from the hub, or with :FILE a file whose column `text`
holds documents.
"""

from jaxft.config import Config
from jaxft.data import Chunk, Data
from jaxft.optim.adamw import AdamW
from jaxft.optim.schedule import Cosine
from jaxft.tasks.lm import CausalLM


def get_config(file: str = "") -> Config:
    """Batch and steps are those of reproductions of GPT-2; the rate is that of Brown et al. 2020, table 2.1."""
    return Config(
        model="openai-community/gpt2",
        init="random",
        task=CausalLM(),
        data=Data(path=file) if file else Data(path="Skylion007/openwebtext", split="train"),
        batching=Chunk(length=1024),
        optim=AdamW(b2=0.95, decay=0.1),
        schedule=Cosine(warmup=2000, end=0.1),
        dropout=0.0,
        lr=6e-4,
        batch=480,
        steps=600_000,
        max_len=1024,
        log_every=100,
    )
