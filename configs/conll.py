"""CoNLL-2003: names of persons, places, organisations and others in English news, with BERT.

--config=configs/conll.py:DIR reads the files of a directory, with the names of the shared task (eng.train,
eng.testa, eng.testb) or train.txt, valid.txt and test.txt; without DIR the data come from the hub. For parts of speech
and chunks of the same sentences: --config.task.tags=pos_tags or chunk_tags.

Batch, rate and epochs are BERT's (Devlin et al. 2018, section A.3). With 128 tokens of the uncased vocabulary, 24 of
the 203,621 words of the training sentences are cut off.
"""

from pathlib import Path

from jaxft.config import Config, Eval, Save
from jaxft.data import Data, Pack
from jaxft.problems import UserError
from jaxft.tasks.token_classification import TokenClassification

COLUMNS = ("tokens", "pos_tags", "chunk_tags", "ner_tags")
HUB = "tomaarsen/conll2003"
FILES = {
    "train": ("eng.train", "train.txt", "train.conll"),
    "validation": ("eng.testa", "valid.txt", "dev.txt", "dev.conll"),
    "test": ("eng.testb", "test.txt", "test.conll"),
}


def get_config(directory: str = "") -> Config:
    """`directory` holds the three files; "": the hub."""

    def data(split: str) -> Data:
        return Data(path=file_of(directory, split), columns=COLUMNS) if directory else Data(path=HUB, split=split)

    return Config(
        model="google-bert/bert-base-cased",
        task=TokenClassification(),
        data=data("train"),
        evals={"val": Eval(data=data("validation")), "test": Eval(data=data("test"))},
        batching=Pack(length=128),
        lr=5e-5,
        batch=32,
        max_len=128,
        epochs=3,
        save=Save(every=400, best="val/f1"),
    )


def file_of(directory: str, split: str) -> str:
    """The file of a split: the first of its usual names that exists."""
    names = FILES[split]
    found = [str(Path(directory) / name) for name in names if (Path(directory) / name).is_file()]
    if not found:
        raise UserError(f"{directory} has no file of the {split} sentences: expected {' or '.join(names)}")
    return found[0]
