"""`jaxft.explain`: attribution of a score to the tokens of a text."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxft.attribution import page
from jaxft.attribution.explanation import Explanation
from jaxft.attribution.gradients import input_x_gradient, integrated_gradients
from jaxft.attribution.occlusion import occlusion
from jaxft.attribution.rollout import attention_rollout
from jaxft.attribution.settings import Settings, check
from jaxft.attribution.target import Target, scores_of, target_of
from jaxft.attribution.text import Text, read_texts
from jaxft.host.output_file import check_output
from jaxft.inference.inputs import inputs_of
from jaxft.inference.model import LoadedModel
from jaxft.problems import SHOWN, raise_problems

log = logging.getLogger("jaxft")

METHOD_FUNCTIONS: dict[str, Callable[[LoadedModel, Text, Target, Settings], np.ndarray]] = {
    "integrated-gradients": integrated_gradients,
    "input-x-gradient": input_x_gradient,
    "occlusion": occlusion,
    "attention-rollout": attention_rollout,
}
MAX_GAP = 0.05  # of the difference between the scores of text and baseline; above, there is a warning


def explain(
    model: LoadedModel,
    text: Any,
    method: str = "integrated-gradients",
    target: str | int | None = None,
    word: str | None = None,
    baseline: str | None = None,
    steps: int = 32,
    batch: int = 32,
    output: str | None = None,
) -> Explanation | list[Explanation]:
    """Attributes a score to the tokens of a text, several texts (a tuple), a row (a dict), or each of a list of them.

    The explained score depends on the head. `target` names another class, token or choice than the predicted one.

        sequence classification  the logit of a class, or the value of a regression
        masked language model    the logit of a token at the first mask
        causal language model    the logit of a token after the text
        question answering       the sum of the logits of the best answer's start and end; no `target`
        token classification     the logit of a tag at the first occurrence of `word`
        multiple choice          the logit of a choice; a text is (question, choice, choice, ...), `target` its number

    method: "integrated-gradients" (Sundararajan et al. 2017), by Gauss-Legendre quadrature with `steps` points between
    the embeddings of the baseline (the text with all tokens but the special ones replaced by the token `baseline`) and
    those of the text; "input-x-gradient" (Shrikumar et al. 2017); "occlusion" (Zeiler and Fergus 2014), which replaces
    one token at a time by `baseline`; "attention-rollout" (Abnar and Zuidema 2020), which does not depend on the score.

    baseline: by default the first that the tokenizer has of mask, padding, unknown and end token. Zero embeddings are
    no choice: a norm before the first layer makes the gradient there useless for a quadrature.

    batch: rows computed together. output: a file for an HTML page of all texts. Raises UserError for models, texts and
    targets that cannot be explained.
    """
    check_output(output)
    settings = check(model, method, target, word, baseline, steps, batch)
    single = isinstance(text, str | tuple | Mapping)
    texts = read_texts(model, inputs_of(text), settings)
    targets = [target_of(model, one, settings) for one in texts]
    bad = [f"text {number}: {found}" for number, found in enumerate(targets, 1) if isinstance(found, str)]
    raise_problems(bad[:SHOWN])
    pairs = [(one, found) for one, found in zip(texts, targets, strict=True) if isinstance(found, Target)]
    found = [_explained(model, *pair, settings) for pair in pairs]
    _warn(found, steps)
    if output is not None:
        page.write(output, found, model.pretrained.directory.name)
    return found[0] if single else found


def _explained(model: LoadedModel, text: Text, target: Target, settings: Settings) -> Explanation:
    attributions = METHOD_FUNCTIONS[settings.method](model, text, target, settings)
    complete = settings.method == "integrated-gradients"
    rows = [text.row] + ([text.row | {"input_ids": text.baseline_ids(settings.baseline)}] if complete else [])
    score, *baseline_scores = scores_of(model, rows, target, len(rows)).tolist()
    baseline = model.tokenizer.convert_ids_to_tokens(settings.baseline)
    return Explanation(
        settings.method,
        text.texts,
        text.tokens,
        text.text_ids,
        text.spans,
        text.unknown,
        attributions,
        target.name,
        target.predicted,
        score,
        baseline if complete or settings.method == "occlusion" else None,
        baseline_scores[0] if complete else None,
        settings.steps if complete else None,
    )


def _warn(found: list[Explanation], steps: int) -> None:
    pairs = [(one.gap, one.difference) for one in found]
    wide = [gap for gap, whole in pairs if gap is not None and whole is not None and abs(gap) > MAX_GAP * abs(whole)]
    if wide:
        log.warning(
            "the attributions of %d of %d texts miss more than %.0f%% of the score's difference from the baseline's: "
            "use more steps than %d",
            len(wide),
            len(found),
            100 * MAX_GAP,
            steps,
        )
