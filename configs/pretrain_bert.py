"""BERT from random weights: masked words and next sentences.

--config=configs/pretrain_bert.py reads the English Wikipedia from the hub, or with :FILE a file whose
column `text` holds documents, or lists of their sentences. SentenceOrder instead of NextSentence is ALBERT's task.
"""

from jaxft.config import Config
from jaxft.data import Data, Pack
from jaxft.optim.adamw import AdamW
from jaxft.optim.schedule import Linear
from jaxft.tasks.pretrain import NextSentence


def get_config(file: str = "") -> Config:
    """Rates, batch and steps are those of Devlin et al. 2018, section A.2, with 128 tokens, as most of their steps."""
    data = Data(path=file) if file else Data(path="wikimedia/wikipedia", name="20231101.en", split="train")
    return Config(
        model="google-bert/bert-base-uncased",
        init="random",
        task=NextSentence(),
        data=data,
        batching=Pack(length=512),
        optim=AdamW(decay=0.01, eps=1e-6),
        schedule=Linear(warmup=10_000),
        lr=1e-4,
        batch=256,
        steps=1_000_000,
        max_len=128,
        log_every=100,
    )
