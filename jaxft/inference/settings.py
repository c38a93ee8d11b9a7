"""How a model read its inputs and decoded its scores when it was evaluated: the file jaxft.json of a model directory.

It is a JSON object, written with the model and used by every prediction. It holds settings only; nothing in it is
executed. `version` and `head` are required:

    version     1
    head        the head of these settings, such as "sequence-classification"
    task        the task that was trained, for information: "Classify"
    max_length  the most tokens of an input, including special tokens; for question answering, of a window
    columns     the columns, or templates, of the texts that the model reads together, in order
    decoding    how scores become answers: SpanDecoding, TagDecoding, LabelDecoding or VectorDecoding, by the head

Labels are in config.json (`id2label`, `problem_type`), which transformers reads; pooling, normalisation and prompts of
embeddings are in the files of sentence-transformers.
"""

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any, Protocol, TypeVar

from jaxft.config.component import config, field_problems, type_problems
from jaxft.config.ranges import Count, Finite, Fraction, NonNegativeInt, problems_of
from jaxft.host.strict_json import parse
from jaxft.problems import UserError, raise_problems, suggest, truncated_repr

log = logging.getLogger("jaxft")

T = TypeVar("T")
MISSING = object()  # of a key that a file does not have
FILE, VERSION = "jaxft.json", 1
SHOWN_ONLY = ("scores",)  # settings that change what an answer shows, not what it is
MOST_BYTES = 10**6  # jaxft.json is far smaller


@config
class SpanDecoding:
    """For question answering; the fields are those of the task QuestionAnswering."""

    stride: NonNegativeInt | None = None  # None: 128, at most a third of the window
    max_query_length: Count = 64
    n_best_size: Count = 20
    max_answer_length: Count = 30
    null_threshold: Finite | None = None  # None: an answer is always given


@config
class TagDecoding:
    """For token classification; the fields are those of the tasks TokenClassification and EntitySpans."""

    decode: str = "argmax"  # or viterbi
    pieces: str = "first"  # the piece of a word whose scores are used: "last", or the first one for "first" and "all"
    scheme: str | None = None  # None: inferred from the tags
    units: str = "words"  # of texts that are not given as lists of words: "words", or "tokens" (EntitySpans)

    def problems(self) -> list[str]:
        known = {"decode": ("argmax", "viterbi"), "pieces": ("first", "last", "all"), "units": ("words", "tokens")}
        return [
            f"{name} is {truncated_repr(value)}, expected {' or '.join(choices)}.{suggest(value, choices)}"
            for name, choices in known.items()
            if (value := getattr(self, name)) not in choices
        ]


@config
class LabelDecoding:
    """For classification."""

    # Of several labels: the least probability of each, in the order of config.json; (): 0.5.
    thresholds: tuple[Fraction, ...] = ()
    positive: str | None = None  # of two classes: the name of the positive one; None: the second
    threshold: Fraction | None = None  # of two classes: of the positive one's probability; None: the more probable one
    scores: str = "predicted"  # what an answer has: the scores of predicted labels; "all": those of all labels as well

    def problems(self) -> list[str]:
        known = ("predicted", "all")
        wrong = f"scores is {truncated_repr(self.scores)}, expected {' or '.join(known)}.{suggest(self.scores, known)}"
        return [] if self.scores in known else [wrong]


@config
class VectorDecoding:
    """For embeddings."""

    prompt_name: str | None = None  # one of the model directory's prompts; None: its default, "": none


Decoding = SpanDecoding | TagDecoding | LabelDecoding | VectorDecoding
DECODINGS: dict[str, type[Decoding]] = {
    "none": VectorDecoding,
    "question-answering": SpanDecoding,
    "token-classification": TagDecoding,
    "sequence-classification": LabelDecoding,
}


@config
class Inference:
    """The contents of jaxft.json, see above. A model directory without the file has the defaults."""

    head: str
    task: str | None = None
    max_length: Count | None = None  # None: the limit of the model
    columns: tuple[str, ...] = ()  # (): the defaults of the head
    decoding: Decoding | None = None  # None: the defaults of the head's class in DECODINGS, if it has one

    def __post_init__(self) -> None:
        if self.decoding is None and self.head in DECODINGS:
            self.decoding = DECODINGS[self.head]()

    def problems(self) -> list[str]:
        return type_problems(self, "") or (problems_of(self.decoding) if self.decoding is not None else [])

    @property
    def spans(self) -> SpanDecoding:
        """`decoding` of a model for question answering."""
        return _of_type(self.decoding, SpanDecoding)

    @property
    def tags(self) -> TagDecoding:
        """`decoding` of a model for token classification."""
        return _of_type(self.decoding, TagDecoding)

    @property
    def labels(self) -> LabelDecoding:
        """`decoding` of a model for sequence classification."""
        return _of_type(self.decoding, LabelDecoding)

    def departing(self, **changes: Any) -> "Inference":
        """These settings with other values of `max_length`, `columns` or fields of `decoding`; None changes nothing.

        Raises UserError for settings that the head does not have. The log says what differs from the evaluation.
        """
        changes = {name: value for name, value in changes.items() if value is not None}
        own = {name: value for name, value in changes.items() if name in ("max_length", "columns")}
        inner = {name: value for name, value in changes.items() if name not in own}
        known = [field.name for field in dataclasses.fields(self.decoding)] if self.decoding else []
        raise_problems(f"{self.head} takes no {name!r}" for name in inner if name not in known)
        decoding = dataclasses.replace(self.decoding, **inner) if self.decoding and inner else self.decoding
        changed = dataclasses.replace(self, **own, decoding=decoding)
        raise_problems(problems_of(changed))
        if self.task is not None:
            before = {name: getattr(self.decoding if name in inner else self, name) for name in changes}
            differences = [
                f"{name} {truncated_repr(changes[name])} instead of {truncated_repr(before[name])}"
                for name in before
                if before[name] != changes[name] and name not in SHOWN_ONLY
            ]
            if differences:
                log.info("not as the model was evaluated: %s", ", ".join(differences))
        return changed

    def to_json(self) -> str:
        """The text of jaxft.json."""
        found = {"version": VERSION, **dataclasses.asdict(self)}
        return json.dumps({key: value for key, value in found.items() if value is not None}, indent=2) + "\n"


class HasHead(Protocol):
    """A task, as far as it matters here."""

    head: str


def reads(task: HasHead, *columns: str | None, decoding: Decoding | None = None) -> Inference:
    """The settings of a task that reads `columns` as one input; None entries are ignored."""
    names = tuple(name for name in columns if name is not None)
    return Inference(head=task.head, task=type(task).__name__, columns=names, decoding=decoding)


def inference_of(directory: Path, head: str) -> Inference:
    """The settings of a model directory that is loaded with `head`; the log says if there are none for it.

    Raises UserError for a malformed file.
    """
    file = Path(directory) / FILE
    if not file.exists():
        log.info(
            "%s has no %s: inputs may be as long as the model allows, and decoding has the defaults", directory, FILE
        )
        return Inference(head=head)
    found = read_inference(file)
    if found.head != head:
        log.info("%s is for the head %s and is not used for %s", file, found.head, head)
        return Inference(head=head)
    return found


def read_inference(file: Path) -> Inference:
    """Reads and checks what `to_json` wrote. Raises UserError with all problems."""
    try:
        if file.stat().st_size > MOST_BYTES:
            raise UserError(f"{file} has more than {MOST_BYTES:,} bytes: it was not written by jaxft")
        value = parse(file.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    if not isinstance(value, dict) or type(value.get("version")) is not int:
        raise UserError(f"{file} was not written by jaxft: expected an object with a version")
    if value.pop("version") != VERSION:
        raise UserError(f"{file} was written by another version of jaxft: export the model again, or remove the file")
    given = value.pop("decoding", None) if "decoding" in value else MISSING
    made, problems = _made(Inference, value)
    if made is not None and given is not MISSING:
        if made.head in DECODINGS:
            made.decoding, more = _made(DECODINGS[made.head], given)
            problems += [f"decoding: {problem}" for problem in more]
        else:
            problems.append(f"the head {truncated_repr(made.head)} has no decoding")
    problems += [] if made is None or problems else problems_of(made)
    if made is None or problems:
        raise UserError([f"{file}: {problem}" for problem in problems])
    return made


def _made(cls: type[T], value: Any) -> tuple[T | None, list[str]]:
    """An object of the class with these fields, whose lists become tuples, and the problems of the fields."""
    if not isinstance(value, dict):
        return None, [f"expected an object, found {truncated_repr(value)}"]
    if problems := field_problems(cls, value):
        return None, problems
    made = cls(**{name: tuple(item) if isinstance(item, list) else item for name, item in value.items()})
    return made, type_problems(made, "")


def _of_type(decoding: Decoding | None, kind: type[T]) -> T:
    if not isinstance(decoding, kind):
        raise ValueError(f"the model has no {kind.__name__}")
    return decoding
