"""The opened data of a run."""

from jaxft.config import Config
from jaxft.config.protocols import Source
from jaxft.config.ranges import problems_of
from jaxft.data.folds import Fold
from jaxft.data.source import Rows, as_rows
from jaxft.problems import UserError, raise_problems
from jaxft.training.missing_columns import missing_columns
from jaxft.training.shared import Shared, identity


def open_sources(cfg: Config, splits: list[str] | None = None, shared: Shared | None = None) -> dict[str, Rows]:
    """The data of a run by name, checked for the task's columns; one UserError for all problems."""
    shared = shared or Shared()
    sources = {"train": cfg.data, **{name: e.data for name, e in cfg.evals.items()}}
    opened, problems = {}, []
    for name, source in sources.items():
        if splits is not None and name not in splits:
            continue
        where = "config.data" if name == "train" else f"config.evals.{name}.data"
        try:
            rows = open_source(source, where, shared)
        except UserError as error:
            problems += [f"{where}: {problem}" for problem in error.problems]
            continue
        problems += missing_columns(cfg.task, rows, where)
        problems += [f"{where}: {rows.mixed[column]}" for column in cfg.task.columns() if column in rows.mixed]
        opened[name] = rows.named()
    raise_problems(problems)
    return opened


def open_source(source: Source, where: str, shared: Shared) -> Rows:
    """The rows of a source, which is read once. A fold is taken from the rows of its own source."""
    if isinstance(source, Fold):
        raise_problems(problems_of(source))
        return source.of(open_source(source.data, where, shared))
    key = identity(source)
    return shared.get(key and ("rows", where, key), lambda: as_rows(source.open(), where))
