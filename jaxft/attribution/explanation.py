"""`jaxft.explain`: which tokens of a text a score comes from."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from jaxft.attribution.gradients import input_x_gradient, integrated_gradients
from jaxft.attribution.occlusion import occlusion
from jaxft.attribution.rollout import attention_rollout
from jaxft.attribution.settings import Settings, check
from jaxft.attribution.target import scores_of, target_of
from jaxft.attribution.text import Text, read_texts
from jaxft.host.output_file import atomic_write, check_output
from jaxft.host.strict_json import dumps
from jaxft.inference.inputs import inputs_of
from jaxft.inference.model import LoadedModel
from jaxft.problems import SHOWN, raise_problems

log = logging.getLogger("jaxft")

ATTRIBUTE = {
    "integrated-gradients": integrated_gradients,
    "input-x-gradient": input_x_gradient,
    "occlusion": occlusion,
    "attention-rollout": attention_rollout,
}
GAP = 0.05  # of the difference between the scores of text and baseline: from there on the log speaks of it


@dataclass(frozen=True)
class Explanation:
    """Attributions of one score of one text to its tokens."""

    method: str
    texts: tuple[str, ...]  # in the order in which the model reads them
    tokens: list[str]
    parts: list[int | None]  # which of the texts each token is of; None: special tokens
    spans: list[tuple[int, int]]  # the token's characters in that text, start and end
    unknown: list[bool]  # whether the token stands for what the tokenizer does not know
    attributions: np.ndarray  # float64 (tokens,)
    target: str  # what the score is for: a class, a token, an answer
    predicted: str  # what the model says
    score: float  # the explained logit, or the sum of two
    baseline: str | None  # the token that stands for nothing, where the method has one
    baseline_score: float | None  # of the text in which it replaces all tokens but the special ones
    steps: int | None  # points of the line between the two

    @property
    def gap(self) -> float | None:
        """What the sum of the attributions misses of the score's difference from the baseline's.

        None for methods that do not promise that sum (completeness: Sundararajan et al. 2017, section 3).
        """
        if self.baseline_score is None:
            return None
        return self.score - self.baseline_score - float(self.attributions.sum())

    def numbers(self) -> dict:
        """All of it as a JSON value, a token at a time."""
        tokens = [
            {"token": token, "text": part, "start": start, "end": end, "unknown": unknown, "attribution": float(value)}
            for token, part, (start, end), unknown, value in zip(
                self.tokens, self.parts, self.spans, self.unknown, self.attributions, strict=True
            )
        ]
        names = ("method", "target", "predicted", "score", "baseline", "baseline_score", "gap")
        return {name: getattr(self, name) for name in names} | {"tokens": tokens}


def explain(
    model: LoadedModel,
    text,
    method: str = "integrated-gradients",
    target: str | int | None = None,
    word: str | None = None,
    baseline: str | None = None,
    steps: int = 32,
    batch: int = 32,
    output: str | None = None,
) -> Explanation | list[Explanation]:
    """Which tokens a score comes from, of a text, some texts (a tuple), a row (a dict), or each of a list of them.

    The score is a logit: that of the likeliest class, or of the class `target`; the value of a regression; of a masked
    language model that of the likeliest token, or of the token `target`, at the first mask; of a causal one likewise
    behind the text; for question answering those of the best answer's start and end, added up; for token
    classification that of the likeliest tag, or of `target`, at the text's first `word`; for multiple choice, where a
    text is (question, choice, choice, ...), that of the question with the likeliest choice, or with number `target`.

    method: "integrated-gradients" (Sundararajan et al. 2017), by `steps` points of Gauss-Legendre quadrature on the
    line from the embeddings of a baseline, the same text with every token but the special ones replaced by the token
    `baseline`; "input-x-gradient" (Shrikumar et al. 2017); "occlusion" (Zeiler and Fergus 2014), each token replaced by
    `baseline` in turn; "attention-rollout" (Abnar and Zuidema 2020), which knows nothing of the score. baseline:
    without it the tokenizer's mask, or else its padding, unknown or end token, the first that there is. Not zeros: what
    a model norms before its first layer has no slope there that a quadrature would find.

    batch: rows computed together. output: a file for an HTML page of all texts. Raises UserError for what cannot be
    explained.
    """
    check_output(output)
    settings = check(model, method, target, word, baseline, steps, batch)
    single = isinstance(text, str | tuple | Mapping)
    texts = read_texts(model, inputs_of(text), settings)
    targets = [target_of(model, one, settings) for one in texts]
    bad = [f"text {number}: {found}" for number, found in enumerate(targets, 1) if isinstance(found, str)]
    raise_problems(bad[:SHOWN])
    found = [_explained(model, *pair, settings) for pair in zip(texts, targets, strict=True)]
    _warn(found, steps)
    if output is not None:
        from jaxft.attribution.page import write

        write(output, found, model.pretrained.directory.name)
    return found[0] if single else found


def _explained(model: LoadedModel, text: Text, target, settings: Settings) -> Explanation:
    attributions = ATTRIBUTE[settings.method](model, text, target, settings)
    complete = settings.method == "integrated-gradients"
    rows = [text.row] + ([text.row | {"input_ids": text.blank(settings.blank)}] if complete else [])
    score, *less = scores_of(model, rows, target, len(rows)).tolist()
    blank = model.tokenizer.convert_ids_to_tokens(settings.blank)
    return Explanation(
        settings.method,
        text.texts,
        text.tokens,
        text.parts,
        text.spans,
        text.unknown,
        attributions,
        target.name,
        target.predicted,
        score,
        blank if complete or settings.method == "occlusion" else None,
        less[0] if less else None,
        settings.steps if complete else None,
    )


def write_numbers(file: str, explanations: list[Explanation]) -> None:
    """One JSON line for each; `file` is there when all of it is."""
    with atomic_write(file) as partial, open(partial, "w", encoding="utf-8") as stream:
        for one in explanations:
            stream.write(dumps(one.numbers(), ensure_ascii=False) + "\n")


def _warn(found: list[Explanation], steps: int) -> None:
    wide = [one for one in found if one.gap is not None and abs(one.gap) > GAP * abs(one.score - one.baseline_score)]
    if wide:
        log.warning(
            "the attributions of %d of %d texts miss more than %.0f%% of the score's difference from the baseline's: "
            "more steps than %d come nearer",
            len(wide),
            len(found),
            100 * GAP,
            steps,
        )
