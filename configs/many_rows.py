"""The task of the quick start on any number of rows, to measure their cost: --config=many_rows:ROWS"""

from jaxft.assets import path
from jaxft.config import Config, Save
from jaxft.config.component import config
from jaxft.data import Data
from jaxft.data.source import Rows, as_rows
from jaxft.tasks.classify import Classify


@config
class Repeated:
    """The rows of a file, repeated up to `count` rows."""

    path: str
    count: int

    def open(self) -> Rows:
        rows = Data(path=self.path).open()[:]
        return as_rows(Cycle(rows, self.count), f"{self.count} rows of {self.path}")


class Cycle:
    """`count` rows from a list that is repeated."""

    def __init__(self, rows: list[dict], count: int):
        self.rows, self.count = rows, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> dict:
        return self.rows[number % len(self.rows)]


def get_config(rows: str = "1000") -> Config:
    return Config(
        model=path("tiny-encoder"),
        task=Classify(),
        data=Repeated(path=path("brown-genres/train.csv"), count=int(rows)),
        lr=5e-4,
        batch=32,
        epochs=1,
        save=Save(every=1000),
    )
