"""SQuAD: --config=squad:v1, or v2, where half of the test questions have no answer.

The data come from the hub. With the files of the SQuAD web page, which have no splits:

    --config.data.path=train-v1.1.json --config.data.split=None
    --config.evals.validation.data.path=dev-v1.1.json --config.evals.validation.data.split=None
"""

from jaxft.config import Config, Eval
from jaxft.data import Data, Pack
from jaxft.problems import UserError
from jaxft.tasks.question_answering import QuestionAnswering

NAMES = {"v1": "rajpurkar/squad", "v2": "rajpurkar/squad_v2"}


def get_config(version: str = "v1") -> Config:
    """Length, stride, batch, rate and epochs are those of the published recipe of BERT for a TPU."""
    if version not in NAMES:
        raise UserError(f"there is no version {version!r}, only {' and '.join(NAMES)}")
    name = NAMES[version]
    return Config(
        model="google-bert/bert-base-uncased",
        task=QuestionAnswering(stride=128),
        data=Data(path=name, split="train"),
        evals={"validation": Eval(data=Data(path=name, split="validation"))},
        batching=Pack(length=384),
        lr=3e-5,
        batch=24,
        epochs=2,
        max_len=384,
    )
