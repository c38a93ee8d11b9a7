"""Genres of texts: the tiny encoder of jaxft/assets, fine-tuned on the labelled passages there."""

from jaxft.assets import path
from jaxft.config import Config, Eval, Save
from jaxft.data import Data
from jaxft.tasks.classify import Classify


def get_config() -> Config:
    return Config(
        model=path("tiny-encoder"),
        task=Classify(),
        data=Data(path=path("brown-genres/train.csv")),
        evals={"test": Eval(data=Data(path=path("brown-genres/test.csv")))},
        lr=7e-4,
        batch=32,
        epochs=4,
        save=Save(every=83),
    )
