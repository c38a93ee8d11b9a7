"""Explanations as one HTML page, without scripts and without network access."""

import functools
from pathlib import Path
from typing import Any

import jinja2

from jaxft import assets
from jaxft.attribution.explanation import Explanation
from jaxft.host.output_file import atomic_write
from jaxft.reports.page import number

ABOUT = {
    "integrated-gradients": (
        "Integrated gradients",
        "Sundararajan et al. 2017. The baseline is the text with all tokens but the special ones replaced by "
        "{baseline}. A token's number is its part of the score's difference between text and baseline, by "
        "Gauss-Legendre quadrature with {steps} points. The numbers sum to the difference, up to the gap.",
    ),
    "input-x-gradient": (
        "Input × gradient",
        "Shrikumar et al. 2017. A token's number is its embedding times the score's gradient there.",
    ),
    "occlusion": (
        "Occlusion",
        "Zeiler and Fergus 2014. A token's number is the loss of score when {baseline} replaces it.",
    ),
    "attention-rollout": (
        "Attention rollout",
        "Abnar and Zuidema 2020. A token's number is the attention of all layers to it, from the position where the "
        "score is read. It shows where the model looks, not what raises the score. The numbers sum to 1.",
    ),
}

UNKNOWN = " (unknown to the tokenizer)"


def write(file: str, explanations: list[Explanation], model: str) -> None:
    """Writes the page; replaces `file` atomically."""
    with atomic_write(file) as partial:
        Path(partial).write_text(page(explanations, model), encoding="utf-8")


def page(explanations: list[Explanation], model: str) -> str:
    """HTML for explanations by one method; `model` is the model's name."""
    first = explanations[0]
    title, about = ABOUT[first.method]
    return _template().render(
        model=model,
        title=title,
        about=about.format(baseline=first.baseline, steps=first.steps),
        signed=first.method != "attention-rollout",
        texts=[
            {
                "predicted": one.predicted,
                "target": one.target,
                "facts": facts(one),
                "pieces": pieces(one),
                "rows": [
                    [token + UNKNOWN * unknown, signed(value)]
                    for token, unknown, value in zip(one.tokens, one.unknown, one.attributions, strict=True)
                ],
            }
            for one in explanations
        ],
    )


def facts(one: Explanation) -> list[tuple[str, str]]:
    """(name, value) of the numbers of an explanation that are not per token."""
    found = [(f"score of {one.target}", number(one.score))]
    if any(one.unknown):
        found.append(("tokens unknown to the tokenizer", f"{sum(one.unknown)} of {len(one.tokens)}"))
    if one.gap is None:
        return found
    share = f" ({abs(one.gap / one.difference):.2%} of the difference)" if one.difference else ""
    return found + [
        ("of the baseline", number(one.baseline_score)),
        ("sum of the attributions", signed(float(one.attributions.sum()))),
        ("gap", signed(one.gap) + share),
    ]


def pieces(one: Explanation) -> list[dict[str, Any]]:
    """The texts, split into tokens, text between tokens, and text that the model did not read.

    A piece has `text` and `kind`: plain, unread, token, unknown (the tokenizer's unknown token) or special. The last
    three have `value`, the attribution; `share`, its size in per cent of the largest of the text; and `tip`, a tooltip.
    Tokens that are parts of one character are one piece with their sum.
    """
    found: list[dict[str, Any]] = []
    done = [0] * len(one.texts)  # characters of each text that are in a piece
    last = {text_id: place for place, text_id in enumerate(one.text_ids)}
    for place, (token, text_id, (start, end)) in enumerate(zip(one.tokens, one.text_ids, one.spans, strict=True)):
        value = float(one.attributions[place])
        if text_id is None:
            found.append({"kind": "special", "text": token, "value": value, "tokens": [token]})
            continue
        text, at = one.texts[text_id], done[text_id]
        if end <= at and start < at and found[-1]["kind"] in ("token", "unknown"):
            found[-1]["value"] += value
            found[-1]["tokens"].append(token)
        else:
            start = max(start, at)
            start += len(text[start:end]) - len(text[start:end].lstrip()) if text[start:end].strip() else 0
            found.append({"kind": "plain", "text": text[at:start]})
            visible = text[start:end] if text[start:end].strip() else "␣"
            kind = "unknown" if one.unknown[place] else "token"
            found.append({"kind": kind, "text": visible, "value": value, "tokens": [token]})
        done[text_id] = max(at, end)
        if place == last[text_id]:
            rest = text[done[text_id] :]
            found.append({"kind": "unread" if rest.strip() else "plain", "text": rest})
    return [_with_share(piece, found) for piece in found if piece["text"]]


def _with_share(piece: dict[str, Any], pieces: list[dict[str, Any]]) -> dict[str, Any]:
    if "value" not in piece:
        return piece
    most = max(abs(one["value"]) for one in pieces if "value" in one)
    share = round(100 * abs(piece["value"]) / most) if most else 0
    name = " ".join(piece["tokens"]) + UNKNOWN * (piece["kind"] == "unknown")
    tip = f"{name}: {signed(piece['value'])}"
    return piece | {"share": share, "sign": "against" if piece["value"] < 0 else "for", "tip": tip}


def signed(value: float) -> str:
    """+0.1234, −1.2e-05 or 0."""
    size = f"{abs(value):.4g}"
    return f"−{size}" if value < 0 else f"+{size}" if value > 0 else size


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([assets.path("attribution"), assets.path("report")]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["number"] = number
    return environment.get_template("attributions.html")
