"""Which column has which role in a task: by its contents and, among several, by its name."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from jaxft.drafts.columns import CONTENTS, Column
from jaxft.problems import listed, suggest


@dataclass(frozen=True)
class Role:
    """A field of a task that names a column."""

    name: str
    kinds: tuple[str, ...]  # what the column may hold; the first that a column holds
    usual: tuple[str, ...]  # usual names of the column; the task's own default is first
    required: bool = True


TEXT = ("text", "sentence", "review", "content", "document", "tweet", "comment", "message", "body")
LABEL = ("label", "labels", "class", "category", "target", "topic", "sentiment", "genre", "intent")
SCORE = ("label", "score", "rating", "target", "value", "stars")
CLASS, NUMBER, TEXTS = ("class", "binary"), ("number",), ("text",)
SECOND = Role("pair", TEXTS, ("pair",), required=False)
TEXT_ONLY = (Role("text", TEXTS, TEXT),)
ROLES: dict[str, tuple[Role, ...]] = {
    "Classify": (Role("label", CLASS, LABEL), Role("text", TEXTS, TEXT), SECOND),
    "MultiLabel": (
        Role("label", ("joined", "words", "tags", "list"), ("labels", *LABEL)),
        Role("text", TEXTS, TEXT),
        SECOND,
    ),
    "Regress": (Role("label", NUMBER, SCORE), Role("text", TEXTS, TEXT), SECOND),
    "TokenClassification": (
        Role("tags", ("tags",), ("ner_tags", "tags", "labels", "ner", "pos_tags")),
        Role("words", ("words",), ("tokens", "words")),
    ),
    "EntitySpans": (Role("spans", ("spans",), ("spans", "entities")), Role("text", TEXTS, TEXT)),
    "QuestionAnswering": (
        Role("answers", ("answers",), ("answers",)),
        Role("question", TEXTS + CLASS, ("question", "query")),
        Role("context", TEXTS + CLASS, ("context", "passage", "paragraph", "document")),
        Role("id", ("text", "number"), ("id",), required=False),
    ),
    "MultipleChoice": (
        Role("choices", ("words", "list"), ("choices", "options", "endings")),
        Role("label", CLASS, ("label", "answer", "answerKey")),
        Role("text", TEXTS, ("question", *TEXT)),
    ),
    "ContrastiveEmbedding": (
        Role("text", TEXTS, ("anchor", "query", "question")),
        Role("pair", TEXTS, ("positive", "answer", "document", "passage")),
        Role("negative", TEXTS, ("negative",), required=False),
    ),
    "Triplet": (
        Role("text", TEXTS, ("anchor", "query")),
        Role("pair", TEXTS, ("positive",)),
        Role("negative", TEXTS, ("negative",)),
    ),
    "Similarity": (
        Role("label", NUMBER, ("score", "label", "similarity")),
        Role("text", TEXTS, ("sentence1", "text1", "sentence_1")),
        Role("pair", TEXTS, ("sentence2", "text2", "sentence_2")),
    ),
    **dict.fromkeys(
        "MaskedLM CausalLM SpanCorruption Denoise ReplacedTokens NextSentence SentenceOrder".split(), TEXT_ONLY
    ),
}
PAIRS = (  # usual names of two texts that are read together
    *(("premise", "hypothesis"), ("sentence1", "sentence2"), ("question1", "question2"), ("text1", "text2")),
    *(("text_a", "text_b"), ("question", "sentence"), ("passage", "question"), ("query", "document")),
)


@dataclass
class Assignment:
    """What is found: field of the task -> column or columns, or another value; why; and what is not clear."""

    columns: dict[str, Any] = field(default_factory=dict)
    reasons: dict[str, str] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)

    def take(self, role: str, column: Any, reason: str) -> None:
        self.columns[role], self.reasons[role] = column, reason

    def names(self) -> list[str]:
        """The columns and templates that have a role."""
        texts = [one for one in self.columns.values() if isinstance(one, str | tuple)]
        return [name for one in texts for name in ((one,) if isinstance(one, str) else one)]

    def free(self, columns: Mapping[str, Column], kinds: Collection[str]) -> list[str]:
        """The columns of these kinds that have no role yet."""
        taken = set(self.names())
        return [name for name, column in columns.items() if name not in taken and set(kinds) & set(column.kinds)]


def assign(task: str, columns: Mapping[str, Column], given: Mapping[str, str | tuple[str, ...]]) -> Assignment:
    """The roles of the columns for a task; `given` are those that the user named, which may also be templates."""
    found = Assignment()
    if task == "TokenClassification" and any("spans" in column.kinds for column in columns.values()):
        found.problems.append(
            "the data have spans of characters, which the task EntitySpans reads: jaxft new EntitySpans"
        )
        return found
    for name, column in given.items():
        found.take(name, column, "as given")
        found.problems += _absent(name, column, columns)
    roles = [role for role in ROLES[task] if role.name not in given]
    _pair(found, columns, roles)
    for role in roles:
        if role.name not in found.columns:
            _choose(found, role, columns)
    return found


def _absent(role: str, column: str | tuple[str, ...], columns: Mapping[str, Column]) -> list[str]:
    names = (column,) if isinstance(column, str) else column
    return [
        f"--config.task.{role}={name}: there is no such column.{suggest(name, columns)} Columns: {listed(columns)}"
        for name in names
        if name not in columns and "{" not in name
    ]


def _pair(found: Assignment, columns: Mapping[str, Column], roles: list[Role]) -> None:
    """Takes two texts with usual names for a task that may read one text or two."""
    if SECOND not in roles or not any(role.name == "text" for role in roles):
        return
    for first, second in PAIRS:
        if all(name in columns and "text" in columns[name].kinds for name in (first, second)):
            found.take("text", first, f"with {second!r} a pair, by their names")
            found.take("pair", second, "the second text of the pair")
            return


def _choose(found: Assignment, role: Role, columns: Mapping[str, Column]) -> None:
    """Gives a role the column with a usual name, or the only one that fits; else there is a problem."""
    candidates = next((some for kind in role.kinds if (some := found.free(columns, [kind]))), [])
    named = [name for usual in role.usual for name in found.free(columns, role.kinds) if name.casefold() == usual]
    what = " or ".join(CONTENTS[kind] for kind in role.kinds)
    if named and (len(named) == 1 or named[0] == role.usual[0]):
        found.take(role.name, named[0], f"holds {columns[named[0]].holds}; by its name")
    elif not role.required:
        return
    elif len(candidates) == 1:
        found.take(role.name, candidates[0], f"the only column that holds {columns[candidates[0]].holds}")
    elif role.name == "label" and "joined" in role.kinds and len(hot := found.free(columns, ["binary"])) > 1:
        found.take("label", tuple(hot), "columns of 0 and 1, one for each label")
    elif candidates:
        several = listed(map(repr, candidates))
        found.problems.append(f"--config.task.{role.name}=COLUMN is needed: several columns hold {what}: {several}")
    else:
        have = "; ".join(f"{name!r} holds {column.holds}" for name, column in columns.items())
        found.problems.append(
            f"--config.task.{role.name}=COLUMN is needed: no column seems to hold {what} for it. The columns: {have}"
        )
