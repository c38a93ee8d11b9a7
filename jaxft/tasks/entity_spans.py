"""Named entities of texts whose annotations are spans of characters."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Self

import numpy as np

from jaxft.config.component import config
from jaxft.config.ranges import Fraction
from jaxft.data.data_report import DataReport, fault_problems
from jaxft.data.example import Example, Row
from jaxft.inference.settings import Inference, reads
from jaxft.problems import RowCheck, UserError, raise_problems, truncated_repr
from jaxft.tasks.base import EncodingContext
from jaxft.tasks.labels import class_name, is_missing, read_all, unknown_labels
from jaxft.tasks.source_rows import SourceRows
from jaxft.tasks.tagging import Tagging, choice_problems
from jaxft.tasks.template import column
from jaxft.tasks.word_alignment import TAG_UNITS, numbers_of_units
from jaxft.text.entities import OUTSIDE, PREFIXES, scheme_of
from jaxft.text.text_spans import LabelledSpan, span_faults, tags_of_units

CUT = "a span that begins or ends inside a word, all of which is tagged"
LOST = "a span without a word of its own"


@config
class EntitySpans(Tagging):
    """Entities that are given as spans of a text: a list of {"start", "end", "label"}, in characters.

    So are the exports of annotation tools (jaxft/data/annotations). The spans become tags of the words that `predict`
    finds in the text, or of its tokens.
    """

    text: str = "text"  # column
    spans: str = "spans"  # column: lists of spans; [] for no entity, None for a text that nobody annotated
    labels: tuple[str, ...] | None = None  # tags by number; None: O and those of the training data's types
    scheme: str | None = None  # of the tags: BIO, IO, IOBES, BILOU; None: that of `labels`, else BIO
    units: str = "words"  # what has a tag; tokens: for languages whose words hold more than the entity
    pieces: str = "first"  # as in TokenClassification
    decode: str = "argmax"  # as in TokenClassification
    max_lost: Fraction = 0.01  # the largest share of words beyond config.max_len; more is an error
    fault_limit: Fraction = 0.05  # the largest share of texts with spans that words do not express; more is an error

    def problems(self) -> list[str]:
        return choice_problems(
            self,
            {
                "scheme": (None, *PREFIXES),
                "units": tuple(TAG_UNITS),
                "pieces": ("first", "last", "all"),
                "decode": ("argmax", "viterbi"),
            },
        )

    def columns(self) -> list[str]:
        return [self.text, self.spans]

    def prepare(self, rows: SourceRows, setting: EncodingContext) -> Self:
        if self.labels is not None:
            scheme = self.scheme or scheme_of(self.labels)
            if scheme is None:
                raise_problems(
                    ["config.task.labels are not tags such as O, B-PER, I-PER: name tags, or leave them out"]
                )
            return replace(self, scheme=scheme)
        found = read_all(rows, self._checked)
        kinds = sorted({one.label for spans in found for one in spans or []})
        raise_problems([] if kinds else [f"column {self.spans!r} holds no span: choose the column that has them"])
        scheme = self.scheme or "BIO"
        labels = [OUTSIDE, *(f"{letter}-{kind}" for kind in kinds for letter in PREFIXES[scheme])]
        own = setting.labels or []
        return replace(self, labels=tuple(own if set(own) == set(labels) else labels), scheme=scheme)

    def encode(self, rows: list[Row], setting: EncodingContext) -> Sequence[Example | list[Example] | str]:
        found = self._checked(rows)
        types = dict.fromkeys(self._tagset().types)
        unknown_labels(lambda row: [one.label for one in self._spans(row) or []], types, "training entity type")(rows)
        texts = column(rows, self.text)
        whole = setting.tokenizer(texts, truncation=False, verbose=False).encodings
        return [
            "no spans" if spans is None else self._example(text, spans, encoding, setting)
            for text, spans, encoding in zip(texts, found, whole, strict=True)
        ]

    def check_data(self, report: DataReport) -> list[str]:
        found = Tagging.check_data(self, report) + fault_problems(report, self.fault_limit)
        if report.faults and found and self.units == "words":
            found[-1] += "; with config.task.units=tokens, a span may end inside a word"
        return found

    def inference(self, results: Mapping[str, Mapping[str, float]]) -> Inference:
        return reads(self, self.text, decoding=self.decoding(self.units))

    def _checked(self, rows: list[Row]) -> list[list[LabelledSpan] | None]:
        """The spans of rows. Raises UserError for those that cannot be tags."""

        def faults(row: Row) -> list[str]:
            (text,) = column([row], self.text)
            return list(span_faults(text, self._spans(row) or []))

        RowCheck(faults, str)(rows)
        return [self._spans(row) for row in rows]

    def _spans(self, row: Row) -> list[LabelledSpan] | None:
        value = row[self.spans]
        if is_missing(value):
            return None
        if not isinstance(value, list):
            raise UserError(f"column {self.spans!r} holds {truncated_repr(value)}, expected a list of spans")
        return [_span(one, self.spans) for one in value]

    def _example(self, text: str, spans: list[LabelledSpan], whole: Any, setting: EncodingContext) -> Example | str:
        units = TAG_UNITS[self.units](text, whole)
        if not units:
            return "no words"
        tagset = self._tagset()
        found = tags_of_units(text, [unit[1:] for unit in units], spans, str(tagset.scheme))
        tags = np.array([self.class_names.index(tag) for tag in found.tags])
        numbers, encoding = numbers_of_units(whole, units), whole
        if setting.max_len is not None and len(whole.ids) > setting.max_len:
            encoding = setting.tokenizer(text, **setting.truncation()).encodings[0]
            numbers = _in_cut_text(numbers, whole, encoding)
        beyond = set(range(len(units))) - set(numbers.tolist())
        made = self.tagged_example(encoding, numbers, tags, beyond, tagset)
        if "token_type_ids" in setting.tokenizer.model_input_names:
            made["types"] = np.array(encoding.type_ids, np.int32)
        made["notes"]["spans"] = len(spans)
        for kind, some in ((CUT, found.cut), (LOST, found.lost)):
            if some:
                made["fault"] = (kind, f"{some[0].start} to {some[0].end}, {text[some[0].start : some[0].end]!r}")
        return made


def _in_cut_text(numbers: np.ndarray, whole: Any, encoding: Any) -> np.ndarray:
    """The units (tokens,) of a text that was cut, from those of the whole one."""
    known = {
        place: number
        for place, word, number in zip(whole.offsets, whole.word_ids, numbers.tolist(), strict=True)
        if word is not None
    }
    pairs = zip(encoding.offsets, encoding.word_ids, strict=True)
    return np.array([-1 if word is None else known.get(place, -1) for place, word in pairs], np.int64)


def _span(one: Any, name: str) -> LabelledSpan:
    fields = one if isinstance(one, dict) else {}
    start, end = fields.get("start"), fields.get("end")
    if type(start) is not int or type(end) is not int:
        raise UserError(f"column {name!r} holds {truncated_repr(one)}, expected a span with start, end and label")
    label = class_name(fields.get("label"), name)
    if label is None:
        raise UserError(f"column {name!r} holds the span {start} to {end} without a label")
    return LabelledSpan(start, end, label)
