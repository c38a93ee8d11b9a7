"""The arguments of `jaxft.explain`, checked before anything is computed."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxft.inference.answers import label_names
from jaxft.inference.model import LoadedModel
from jaxft.models.heads import READ_AGAIN, Classifier
from jaxft.problems import listed, raise_problems, suggest, truncated_repr
from jaxft.tasks.labels import class_name, numbering

CLASSES = ("sequence-classification", "token-classification")
VOCABULARY = ("masked-lm", "causal-lm")
EXPLAINED = (*CLASSES, *VOCABULARY, "question-answering", "multiple-choice")  # heads
GRADIENTS = ("integrated-gradients", "input-x-gradient")
METHODS = (*GRADIENTS, "occlusion", "attention-rollout")


@dataclass(frozen=True)
class Settings:
    """What to compute, for any text."""

    method: str  # of METHODS
    number: int | None  # of the class, choice or token whose score is explained; None: of the predicted one
    word: str | None  # the word whose tag is explained, for token classification
    baseline: int  # id of the baseline token
    steps: int  # points of the quadrature between baseline and text
    batch: int  # rows computed together


def check(
    model: LoadedModel,
    method: str,
    target: str | int | None,
    word: str | None,
    baseline: str | None,
    steps: int,
    batch: int,
) -> Settings:
    """Settings from the arguments of `explain`. Raises UserError with all problems."""
    if not isinstance(model, LoadedModel):
        raise_problems([f"explain takes a model that jaxft.load returned, not {type(model).__name__}"])
    raise_problems(_unexplained(model, method))
    problems = [
        f"{name} is {value}, expected 1 or more" for name, value in (("steps", steps), ("batch", batch)) if value < 1
    ]
    if method not in METHODS:
        problems.append(f"method is {truncated_repr(method)}, expected {_one_of(METHODS)}.{suggest(method, METHODS)}")
    if (model.arch.kind == "token-classification") != (word is not None):
        problems.append("word says which word's tag to explain: it is needed for token classification, and only there")
    number, unknown = (None, []) if target is None else _number(model, target)
    baseline_id, missing = _baseline_id(model, baseline)
    raise_problems(problems + unknown + missing)
    return Settings(method, number, word, baseline_id, steps, batch)


def _unexplained(model: LoadedModel, method: str) -> list[str]:
    """Why this method cannot explain scores of this model."""
    kind, spec = model.arch.kind, model.arch.spec
    if model.prompt is not None:
        return ["explain does not know soft prompts yet: explain a model that was tuned by another method"]
    if (argument := spec.input_side.embed.argument) != "input_ids":
        return [f"explain reads texts, but this model takes {argument}"]
    if kind not in EXPLAINED:
        return [f"explain does not know which score of a {kind} model to explain yet, only of {_one_of(EXPLAINED)}"]
    if method == "attention-rollout" and model.model.mean:
        return ["attention-rollout needs one position, but this model's head reads the mean of all: use another method"]
    if spec.encoder is None:
        return []
    if kind not in READ_AGAIN:
        return ["explain has no text for this model's decoder"]
    if method == "attention-rollout":
        return [
            "attention-rollout follows one stack of layers, but this model has an encoder and a decoder: "
            "use integrated-gradients"
        ]
    if method in GRADIENTS and not spec.encoder.embed.shared_embedding:
        return [
            f"{method} is not implemented for an encoder and a decoder with separate token embeddings: use occlusion"
        ]
    return []


def _number(model: LoadedModel, target: str | int) -> tuple[int | None, list[str]]:
    """(number of the class, choice or token, problems with its name)."""
    if model.arch.kind == "question-answering":
        return None, ["for question answering the best answer is explained: it takes no target"]
    if model.arch.kind == "multiple-choice":
        problem = f"target is {truncated_repr(target)}, expected the number of a choice, from 0"
        return (int(target), []) if str(target).isdecimal() else (None, [problem])
    if isinstance(head := model.arch.head, Classifier):
        names = label_names(model.pretrained, head.classes)
        if len(names) == 1:
            return None, ["the model gives one value, which is explained: it takes no target"]
        known = numbering(names)
        name = class_name(target, "target", known)
        problem = (
            f"target is {truncated_repr(target)}, but the classes are {listed(names)}.{suggest(str(target), names)}"
        )
        return (known[name], []) if name in known else (None, [problem])
    vocabulary, token = model.tokenizer.get_vocab(), str(target)
    if token in vocabulary:
        return vocabulary[token], []
    pieces = model.tokenizer.tokenize(token)
    if len(pieces) == 1:
        return vocabulary[pieces[0]], []
    return None, [
        f"target is {truncated_repr(target)}, which is not a single token of this model, but {listed(pieces) or 'none'}"
    ]


def _baseline_id(model: LoadedModel, baseline: str | None) -> tuple[int, list[str]]:
    tokenizer = model.tokenizer
    if baseline is None:
        names = ("mask_token_id", "pad_token_id", "unk_token_id", "eos_token_id")
        found = next((number for name in names if (number := getattr(tokenizer, name)) is not None), None)
        problem = "the tokenizer has no token for masks, padding, unknown words or ends: name one with baseline"
        return (0, [problem]) if found is None else (found, [])
    vocabulary = tokenizer.get_vocab()
    near = suggest(baseline, vocabulary)
    problem = f"baseline is {truncated_repr(baseline)}, which is not a token of this model.{near}"
    return (vocabulary[baseline], []) if baseline in vocabulary else (0, [problem])


def _one_of(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + " or " + names[-1]
