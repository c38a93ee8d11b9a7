"""Open files, saved directories and hub data sets as rows with random access."""

import glob
import os
from typing import Any

import pyarrow as pa

from jaxft.config.component import config
from jaxft.config.ranges import Count, problems_of
from jaxft.data.annotations.units import UNITS
from jaxft.data.encodings import encoding_problems
from jaxft.data.files import READERS, is_text, read_file, suffix
from jaxft.data.reading import Reading
from jaxft.data.row_sequence import Rows, as_rows, is_dataset
from jaxft.data.tables import concatenate
from jaxft.problems import UserError, listed, raise_problems, suggest, truncated_repr

LONGEST_PATH = 4096  # characters; PATH_MAX of Linux


@config
class Data:
    """Rows of a file, of files named by a glob, of a directory that `save_to_disk` wrote, or of a hub data set.

    Files: .jsonl .json .csv .tsv .xlsx .parquet .arrow .txt .conll .iob .ann, each also with .gz. Cells of csv, tsv and
    xlsx are read as text. .conll and .iob hold sentences with one word per line, and so does any file for which
    `columns` are given (data/conll.py). Exports of annotation tools, and brat's .ann beside its .txt, become rows with
    `text` and `spans` (data/annotations).
    """

    path: str  # a file, a glob, a directory, or a name on the hub
    split: str | None = None  # of a hub data set or a saved directory
    name: str | None = None  # configuration of a hub data set
    limit: Count | None = None  # read only the first rows, at most this many
    quote: str = '"'  # of csv and tsv; "": quotes are ordinary characters
    delimiter: str | None = None  # of csv and tsv; None: as the first rows show, a comma or a tab if they do not
    encoding: str | None = None  # of text files; None: UTF-8, or as data/encodings.py finds it
    sheet: str | None = None  # of an .xlsx file; None: the only one with cells
    documents: bool = False  # rows of a .txt file are documents, separated by blank lines; False: lines
    offsets: str | None = None  # what annotated spans count: characters, utf16, graphemes; None: as their texts show
    columns: tuple[str, ...] = ()  # of a sentence file; (): the first column is "tokens", the last "tags"

    def problems(self) -> list[str]:
        found = []
        if not self.path or "\0" in self.path or len(self.path) > LONGEST_PATH:
            what = "is empty" if not self.path else "holds a NUL character" if "\0" in self.path else "is too long"
            found.append(f"path {what}: {truncated_repr(self.path)}, expected the path of a file, or a name")
        if self.delimiter is not None and len(self.delimiter) != 1:
            found.append(
                f"delimiter is {truncated_repr(self.delimiter)}, expected one character, or None for the default"
            )
        found += encoding_problems(self.encoding)
        if len(self.quote) > 1:
            found.append(f"quote is {truncated_repr(self.quote)}, expected one character, or '' for none")
        if self.offsets is not None and self.offsets not in UNITS:
            known = " or ".join(UNITS)
            found.append(f"offsets is {truncated_repr(self.offsets)}, expected {known}.{suggest(self.offsets, UNITS)}")
        if len(set(self.columns)) < len(self.columns):
            found.append(f"columns are {listed(self.columns)}: use different names")
        return found

    def open(self) -> Rows:
        """Reads the source. Raises UserError if it is missing, malformed or empty."""
        raise_problems(problems_of(self))
        path = os.path.expanduser(self.path)
        if os.path.isdir(path) and _was_saved(path):
            if self.name is not None:
                raise UserError(f"{self.path} was written by save_to_disk and has no configurations: do not set name")
            from datasets import load_from_disk

            opened = self._pick(load_from_disk(path))
        elif os.path.isfile(path) or glob.has_magic(path):
            opened = self._read(path)
        elif os.path.exists(path) and (self.columns or _looks_like_path(path)):
            kind = "a directory that save_to_disk did not write" if os.path.isdir(path) else "not a file"
            raise UserError(f"{self.path} is {kind}: expected a file, or a glob such as 'data/*.csv'")
        elif self.columns or _looks_like_path(path):
            raise UserError(f"no such file: {self.path}.{_near(path)}")
        else:
            opened = self._load(path)
        return as_rows(opened, self.path).first(self.limit)

    def _read(self, path: str) -> pa.Table:
        paths = [path] if os.path.isfile(path) else sorted(filter(os.path.isfile, glob.glob(path, recursive=True)))
        problems = [f"no file matches {self.path}"] if not paths else []
        problems += [
            f"{one}: unknown kind of file, expected one of {' '.join(READERS)}, or one of them with .gz; "
            + ("if it has one word per line, name its columns" if is_text(one) else "save its rows as .csv or .jsonl")
            for one in paths
            if suffix(one) not in READERS and not self.columns
        ]
        if self.documents and not all(suffix(one) == ".txt" for one in paths):
            problems.append(f"{self.path}: documents=True is for .txt files, whose blank lines separate documents")
        if self.sheet is not None and not all(suffix(one) == ".xlsx" for one in paths):
            problems.append(f"{self.path}: sheet is for .xlsx files: do not set it")
        if self.split is not None or self.name is not None:
            problems.append(f"{self.path} is a file: it has no splits or configurations: do not set split and name")
        if problems:
            raise UserError(problems)
        how = Reading(self.quote, self.delimiter, sheet=self.sheet, offsets=self.offsets)
        return concatenate([read_file(one, how, self.columns, self.documents, self.encoding) for one in paths], paths)

    def _load(self, path: str) -> Any:
        """A data set of the hub, or of the library's cache."""
        import datasets

        datasets.disable_progress_bars()
        datasets.logging.set_verbosity_error()
        try:
            found = datasets.load_dataset(path, self.name, split=self.split)
        except Exception as error:  # The library raises about twenty types from four packages.
            reason = str(error).strip().split("\n")[0]
            raise UserError(
                f"no file, directory or cached dataset {path!r} (name={self.name!r}, split={self.split!r}): {reason} "
                "Without a network, give a local file or a directory written by save_to_disk."
            ) from error
        return found if self.split is not None else self._pick(found)

    def _pick(self, found: Any) -> Any:
        """The split to read from a DatasetDict; a Dataset itself."""
        if is_dataset(found):
            if self.split not in (None, str(found.split)):
                raise UserError(f"{self.path} is one data set without splits: do not set split")
            return found
        split = self.split if self.split is not None or len(found) > 1 else next(iter(found))
        if split in found:
            return found[split]
        asked = (
            "which split?" if split is None else f"there is no split {truncated_repr(split)}.{suggest(split, found)}"
        )
        raise UserError(f"{self.path}: {asked} Set split to one of: {listed(found)}")


def _was_saved(directory: str) -> bool:
    return any(os.path.isfile(os.path.join(directory, name)) for name in ("state.json", "dataset_dict.json"))


def _looks_like_path(path: str) -> bool:
    return suffix(path) in READERS or path.startswith((os.sep, "." + os.sep, ".." + os.sep, "~")) or path.count("/") > 1


def _near(path: str) -> str:
    directory, name = os.path.split(path)
    directory = directory or "."
    return (
        suggest(name, os.listdir(directory)) if os.path.isdir(directory) else f" The directory {directory} is missing."
    )
