"""How a model read its inputs when it was evaluated: the file jaxft.json of a model directory.

One JSON object, written with the model and used by everything that asks the model. It holds settings only; nothing in
it is executed. `version` and `head` are required:

    version     1
    head        the head that these settings are for, such as "sequence-classification"
    task        what was trained, for people: "Classify"
    max_length  most tokens of one input, special tokens included; of question answering those of one window
    columns     the columns, or templates of columns, that hold the texts which the model reads together, in its order
    decoding    how scores become answers: SpanDecoding, TagDecoding, LabelDecoding or VectorDecoding by the head

Labels are in config.json (`id2label`, `problem_type`), where transformers reads them; pooling, normalisation and
prompts of embeddings in the files of sentence-transformers.
"""

import dataclasses
import json
import logging
from pathlib import Path

from jaxft.config.component import config, field_problems, type_problems
from jaxft.config.ranges import Count, Finite, Fraction, NonNegativeInt, problems_of
from jaxft.host.strict_json import parse
from jaxft.problems import UserError, raise_problems, suggest, truncated_repr

log = logging.getLogger("jaxft")

FILE, VERSION = "jaxft.json", 1
MOST_BYTES = 10**6  # a file of settings is far smaller


@config
class SpanDecoding:
    """Of question answering; the fields are those of the task Answer."""

    stride: NonNegativeInt | None = None  # None: 128, at most a third of the window
    max_query_length: Count = 64
    n_best_size: Count = 20
    max_answer_length: Count = 30
    null_threshold: Finite | None = None  # None: there is always an answer


@config
class TagDecoding:
    """Of token classification; the fields are those of the task Tag."""

    decode: str = "argmax"  # or viterbi
    pieces: str = "first"  # the piece of a word whose scores count; "all" reads the first one, too
    scheme: str | None = None  # None: by the tags

    def problems(self) -> list[str]:
        known = {"decode": ("argmax", "viterbi"), "pieces": ("first", "last", "all")}
        return [
            f"{name} is {truncated_repr(value)}, expected {' or '.join(choices)}.{suggest(value, choices)}"
            for name, choices in known.items()
            if (value := getattr(self, name)) not in choices
        ]


@config
class LabelDecoding:
    """How a multi-label classifier turns probabilities into labels."""

    thresholds: tuple[Fraction, ...] = ()  # least probability of each label, in the order of config.json; (): 0.5


@config
class VectorDecoding:
    """Of embeddings."""

    prompt_name: str | None = None  # of the directory's prompts; None: its default, "": none

    def problems(self) -> list[str]:
        return []


DECODINGS = {
    "none": VectorDecoding,
    "question-answering": SpanDecoding,
    "token-classification": TagDecoding,
    "sequence-classification": LabelDecoding,
}


@config
class Inference:
    """What jaxft.json holds; see above. A model directory without that file has the defaults."""

    head: str
    task: str | None = None
    max_length: Count | None = None  # None: what the model takes
    columns: tuple[str, ...] = ()  # (): what is usual for the head
    decoding: object = None  # None: the defaults of the head's class in DECODINGS

    def __post_init__(self):
        if self.decoding is None:
            self.decoding = DECODINGS.get(self.head, lambda: None)()

    def problems(self) -> list[str]:
        return type_problems(self, "") or (problems_of(self.decoding) if self.decoding is not None else [])

    def departing(self, **changes) -> "Inference":
        """The same with other values of its fields, or of those of `decoding`. None leaves a value as it is.

        Raises UserError for what the head has not. The log says what differs from the evaluation.
        """
        changes = {name: value for name, value in changes.items() if value is not None}
        own = {name: value for name, value in changes.items() if name in ("max_length", "columns")}
        inner = {name: value for name, value in changes.items() if name not in own}
        known = [field.name for field in dataclasses.fields(self.decoding)] if self.decoding else []
        raise_problems(f"{self.head} takes no {name!r}" for name in inner if name not in known)
        decoding = dataclasses.replace(self.decoding, **inner) if inner else self.decoding
        changed = dataclasses.replace(self, **own, decoding=decoding)
        raise_problems(problems_of(changed))
        if self.task is not None:
            before = {name: getattr(self.decoding if name in inner else self, name) for name in changes}
            said = [
                f"{name} {truncated_repr(changes[name])} instead of {truncated_repr(before[name])}"
                for name in before
                if before[name] != changes[name]
            ]
            if said:
                log.info("not as the model was evaluated: %s", ", ".join(said))
        return changed

    def to_json(self) -> str:
        """The text of jaxft.json."""
        found = {"version": VERSION, **dataclasses.asdict(self)}
        return json.dumps({key: value for key, value in found.items() if value is not None}, indent=2) + "\n"


def reads(task, *columns: str | None, decoding=None) -> Inference:
    """The settings of a task that reads `columns` as one input; None entries are left out."""
    columns = tuple(name for name in columns if name is not None)
    return Inference(head=task.head, task=type(task).__name__, columns=columns, decoding=decoding)


def inference_of(directory: Path, head: str) -> Inference:
    """The settings of a model directory that is loaded with `head`; the log says where there are none for it.

    Raises UserError for a file that is not as described above.
    """
    file = Path(directory) / FILE
    if not file.exists():
        log.info("%s has no %s: inputs may be as long as the model takes, decoding is the usual", directory, FILE)
        return Inference(head=head)
    found = read_inference(file)
    if found.head != head:
        log.info("%s is for the head %s: it is not used for %s", file, found.head, head)
        return Inference(head=head)
    return found


def read_inference(file: Path) -> Inference:
    """What `to_json` wrote, checked. Raises UserError with every problem."""
    try:
        if file.stat().st_size > MOST_BYTES:
            raise UserError(f"{file} has more than {MOST_BYTES:,} bytes: it is not a file of settings")
        value = parse(file.read_bytes())
    except (OSError, ValueError) as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    if not isinstance(value, dict) or type(value.get("version")) is not int:
        raise UserError(f"{file} is not as jaxft writes it: expected an object with a version")
    if value.pop("version") != VERSION:
        raise UserError(f"{file} was written by another version of jaxft: export the model again, or remove the file")
    made, problems = _made(Inference, value)
    if made is not None and made.head in DECODINGS and "decoding" in value:
        made.decoding, more = _made(DECODINGS[made.head], value["decoding"])
        problems += [f"decoding: {problem}" for problem in more]
    elif made is not None and "decoding" in value:
        problems.append(f"the head {truncated_repr(made.head)} has no decoding")
    problems += [] if made is None or problems else problems_of(made)
    raise_problems(f"{file}: {problem}" for problem in problems)
    return made


def _made(cls: type, value) -> tuple[object | None, list[str]]:
    """An object of the class with these fields, whose lists become tuples, and what is wrong with them."""
    if not isinstance(value, dict):
        return None, [f"expected an object, found {truncated_repr(value)}"]
    if problems := field_problems(cls, value):
        return None, problems
    made = cls(**{name: tuple(item) if isinstance(item, list) else item for name, item in value.items()})
    return made, type_problems(made, "")
