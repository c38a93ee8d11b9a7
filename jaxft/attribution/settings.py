"""What is asked for when a score is explained, checked before anything is computed."""

from dataclasses import dataclass

from jaxft.inference.answers import label_names
from jaxft.inference.model import LoadedModel
from jaxft.models.heads import READ_AGAIN
from jaxft.problems import listed, raise_problems, suggest, truncated_repr
from jaxft.tasks.labels import class_name, numbering

CLASSES = ("sequence-classification", "token-classification")
VOCABULARY = ("masked-lm", "causal-lm")
EXPLAINED = (*CLASSES, *VOCABULARY, "question-answering", "multiple-choice")  # heads that have a score to explain
GRADIENTS = ("integrated-gradients", "input-x-gradient")
METHODS = (*GRADIENTS, "occlusion", "attention-rollout")


@dataclass(frozen=True)
class Settings:
    """One request, whatever the text."""

    method: str  # of METHODS
    number: int | None  # of the class, choice or vocabulary entry whose score it is; None: of the likeliest
    word: str | None  # of a text with tags: the one whose tag it is
    blank: int  # the token that says nothing
    steps: int  # points of the line from the blank text to the text
    batch: int  # rows computed together


def check(model: LoadedModel, method, target, word, baseline, steps, batch) -> Settings:
    """The settings of a request, see `explain`; raises UserError with every problem of it."""
    if not isinstance(model, LoadedModel):
        raise_problems([f"explain takes a model that jaxft.load gives, not {type(model).__name__}"])
    raise_problems(_unexplained(model, method))
    problems = [
        f"{name} is {value}, expected 1 or more" for name, value in (("steps", steps), ("batch", batch)) if value < 1
    ]
    if method not in METHODS:
        problems.append(f"method is {truncated_repr(method)}, expected {_one_of(METHODS)}.{suggest(method, METHODS)}")
    if (model.arch.kind == "token-classification") != (word is not None):
        problems.append("word says which word's tag to explain: it is needed for token classification, and only there")
    number, unknown = (None, []) if target is None else _number(model, target)
    blank, missing = _blank(model, baseline)
    raise_problems(problems + unknown + missing)
    return Settings(method, number, word, blank, steps, batch)


def _unexplained(model: LoadedModel, method: str) -> list[str]:
    """Why scores of this model cannot be explained, or not by this method."""
    kind, spec = model.arch.kind, model.arch.spec
    if (argument := spec.input_side.embed.argument) != "input_ids":
        return [f"explain reads texts, but this model takes {argument}"]
    if kind not in EXPLAINED:
        return [f"explain does not know which score of a {kind} model to explain yet, only of {_one_of(EXPLAINED)}"]
    if method == "attention-rollout" and model.model.mean:
        return ["attention-rollout follows one place, but this model's head reads the mean of all: take another method"]
    if spec.encoder is None:
        return []
    if kind not in READ_AGAIN:
        return ["explain has no text for this model's decoder"]
    if method == "attention-rollout":
        return [
            "attention-rollout follows one stack of layers, but this model has an encoder and a decoder: "
            "take integrated-gradients"
        ]
    if method in GRADIENTS and not spec.encoder.embed.shared_embedding:
        return [
            f"{method} is not there yet for an encoder and a decoder with token embeddings of their own: take occlusion"
        ]
    return []


def _number(model: LoadedModel, target: str) -> tuple[int | None, list[str]]:
    """The number of a class or a token, or what is wrong with its name."""
    if model.arch.kind == "question-answering":
        return None, ["a question-answering model's best answer is explained: it takes no target"]
    if model.arch.kind == "multiple-choice":
        problem = f"target is {truncated_repr(target)}, expected the number of a choice, from 0"
        return (int(target), []) if str(target).isdecimal() else (None, [problem])
    if model.arch.kind in CLASSES:
        names = label_names(model.pretrained, model.arch.head.classes)
        if len(names) == 1:
            return None, ["the model gives one value, which is explained: it takes no target"]
        known = numbering(names)
        name = class_name(target, "target", known)
        problem = (
            f"target is {truncated_repr(target)}, but the classes are {listed(names)}.{suggest(str(target), names)}"
        )
        return (known[name], []) if name in known else (None, [problem])
    vocabulary = model.tokenizer.get_vocab()
    if target in vocabulary:
        return vocabulary[target], []
    pieces = model.tokenizer.tokenize(target)
    if len(pieces) == 1:
        return vocabulary[pieces[0]], []
    return None, [
        f"target is {truncated_repr(target)}, which is no single token to this model, but {listed(pieces) or 'none'}"
    ]


def _blank(model: LoadedModel, baseline: str | None) -> tuple[int, list[str]]:
    tokenizer = model.tokenizer
    if baseline is None:
        names = ("mask_token_id", "pad_token_id", "unk_token_id", "eos_token_id")
        found = next((number for name in names if (number := getattr(tokenizer, name)) is not None), None)
        problem = "the tokenizer has no token for masks, padding, unknown words or ends: name one with baseline"
        return (0, [problem]) if found is None else (found, [])
    vocabulary = tokenizer.get_vocab()
    problem = f"baseline is {truncated_repr(baseline)}, which is no token of this model.{suggest(baseline, vocabulary)}"
    return (vocabulary[baseline], []) if baseline in vocabulary else (0, [problem])


def _one_of(names) -> str:
    return ", ".join(names[:-1]) + " or " + names[-1]
