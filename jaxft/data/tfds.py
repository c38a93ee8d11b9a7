"""Data sets of TensorFlow Datasets (TFDS), with random access and without TensorFlow."""

import contextlib
import importlib
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from jaxft.config.component import config
from jaxft.config.ranges import problems_of
from jaxft.data.example import Row
from jaxft.data.row_sequence import Rows
from jaxft.problems import UserError, raise_problems, suggest


@config
class TFDS:
    """Rows of a data set that TFDS has prepared as ArrayRecord, a format with random access.

    A data set is prepared first if necessary: TFDS downloads it, and needs TensorFlow for some sets.
    Texts become str, class numbers have class names, nested features are dicts and lists.
    """

    name: str  # "imdb_reviews", "glue/cola", "glue/cola:2.0.0"
    split: str = "train"  # or a split expression of TFDS: "train[:10%]", "train+test"
    directory: str | None = None  # with prepared data sets; None: TFDS_DATA_DIR, else ~/tensorflow_datasets

    def problems(self) -> list[str]:
        given = {"name": self.name, "split": self.split}
        examples = {"name": "'imdb_reviews'", "split": "'train'"}
        return [f"{field} is empty: set it, as in {examples[field]}" for field in given if not given[field].strip()]

    def open(self) -> Rows:
        """Raises UserError if the data set is missing and cannot be prepared, or has no such split."""
        raise_problems(problems_of(self))
        tfds = _library()
        builder = self._prepared(tfds)
        known = list(builder.info.splits)
        raise_problems(
            f"{self.name} has no split {part!r}.{suggest(part, known)} Set split to one of: {', '.join(known)}"
            for part in (piece.partition("[")[0].strip() for piece in self.split.split("+"))
            if part not in [*known, "all"]
        )
        try:
            empty = builder.info.splits[self.split].num_examples == 0
            records = None if empty else builder.as_data_source(split=self.split)
        except NotImplementedError:  # for formats without random access
            kind = builder.info.file_format.value
            raise UserError(f"{self.name} is prepared as {kind}, which has no random access: {self._fix()}") from None
        except Exception as error:  # of many types
            raise UserError(f"{self.name}, split {self.split!r}: {_first_line(error)}") from error
        if records is None:
            raise UserError(f"{self.name} has no rows in its split {self.split!r}: choose another split")
        return _rows(f"{self.name} ({self.split})", records, builder.info.features, tfds.features.ClassLabel)

    @property
    def _place(self) -> str:
        return os.path.expanduser(self.directory or os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets")

    def _fix(self) -> str:
        return f"prepare it with tfds build {self.name} --file_format=array_record --data_dir={self._place}"

    def _prepared(self, tfds: ModuleType) -> Any:
        """The TFDS builder of the data set, with prepared files."""
        try:
            builder = tfds.builder(self.name, data_dir=self._place)
        except Exception as error:
            known = [*_found(self._place), *tfds.list_builders(with_community_datasets=False)]
            there = ", ".join(_found(self._place)) or "nothing"
            raise UserError(
                f"no data set {self.name!r} ({_first_line(error)}).{suggest(self.name, known)} Prepared in "
                f"{self._place}: {there}. If TFDS has it with TensorFlow only, {self._fix()} where that is installed"
            ) from None
        if builder.is_prepared():
            return builder
        try:
            with contextlib.redirect_stdout(sys.stderr):  # stdout is for the results of a command
                builder.download_and_prepare(file_format="array_record")
        except Exception as error:
            raise UserError(f"{self.name} cannot be prepared here ({_first_line(error)}): {self._fix()}") from error
        return builder


def _library() -> ModuleType:
    try:
        return importlib.import_module("tensorflow_datasets")
    except ImportError as error:
        raise UserError(f"TFDS needs the package tensorflow-datasets ({error}): pip install 'jaxft[tfds]'") from None


def _found(directory: str) -> list[str]:
    """The prepared data sets, as NAME:VERSION or NAME/CONFIG:VERSION."""
    files = [file for depth in ("*/*", "*/*/*") for file in Path(directory).glob(f"{depth}/dataset_info.json")]
    return sorted(":".join(str(file.parent.relative_to(directory)).rsplit(os.sep, 1)) for file in files)


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".") or type(error).__name__


def _rows(name: str, records: Any, features: Any, label: type) -> Rows:
    """`label` is the TFDS type of features that are class numbers."""
    # For a list, the type of its items.
    kinds: dict[str, Any] = {key: getattr(features[key], "feature", features[key]) for key in features}
    labels = {key: kind for key, kind in kinds.items() if isinstance(kind, label)}
    classes = {key: kinds[key].names for key in labels if kinds[key].num_classes}

    def read(start: int, stop: int) -> list[Row]:
        numbers = list(range(start, stop))
        return [_row(*one, name) for one in zip(numbers, records.__getitems__(numbers), strict=True)]

    return Rows(name, list(kinds), classes, len(records), read)


def _row(number: int, record: Row, name: str) -> Row:
    try:
        return _plain(record)
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name}, row {number + 1}: bytes that are not UTF-8 ({error.reason}): jaxft reads texts only"
        ) from None


def _plain(value: Any) -> Any:
    """A value of a record as Python texts, numbers, truth values, dicts and lists."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    return [_plain(item) for item in value] if isinstance(value, list) else value
