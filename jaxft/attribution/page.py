"""Explanations as one HTML page that needs no network and runs no script."""

import functools
from pathlib import Path

import jinja2

from jaxft import assets
from jaxft.attribution.explanation import Explanation
from jaxft.host.output_file import atomic_write
from jaxft.reports.page import number

ABOUT = {
    "integrated-gradients": (
        "Integrated gradients",
        "Sundararajan et al. 2017. From the same text with every token but the special ones replaced by {baseline}, to "
        "the text: a token's number is its share of what the score gains on the way, by Gauss-Legendre quadrature with "
        "{steps} points. Their sum is the whole difference but for the gap.",
    ),
    "input-x-gradient": (
        "Input × gradient",
        "Shrikumar et al. 2017. A token's number is its embedding times the score's slope at it.",
    ),
    "occlusion": (
        "Occlusion",
        "Zeiler and Fergus 2014. A token's number is what the score loses when {baseline} stands in its place.",
    ),
    "attention-rollout": (
        "Attention rollout",
        "Abnar and Zuidema 2020. A token's number is what the place where the score is read has of it, by the "
        "attention of all layers: where the model looks, not what raises the score. They sum to 1.",
    ),
}

UNKNOWN = " (unknown to the tokenizer)"


def write(file: str, explanations: list[Explanation], model: str) -> None:
    """`file` is there when all of it is."""
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
    """The numbers of a text as a whole."""
    found = [(f"score of {one.target}", number(one.score))]
    if any(one.unknown):
        found.append(("tokens unknown to the tokenizer", f"{sum(one.unknown)} of {len(one.tokens)}"))
    if one.gap is None:
        return found
    gain = one.score - one.baseline_score
    share = f" ({abs(one.gap / gain):.2%} of the difference)" if gain else ""
    sums = float(one.attributions.sum())
    return found + [
        ("of the baseline", number(one.baseline_score)),
        ("sum of the attributions", signed(sums)),
        ("gap", signed(one.gap) + share),
    ]


def pieces(one: Explanation) -> list[dict]:
    """The texts cut into what stands between tokens, what a token stands for, and what was not read.

    A piece has `text` and `kind`: plain, unread, token, unknown (a token that stands for what the tokenizer does not
    know) or special. Of the last three `value` is the attribution, `share` its size in per cent of the text's largest,
    `tip` what to say of it. Tokens that are parts of one character are one piece, with the sum of theirs.
    """
    found, done = [], [0] * len(one.texts)
    last = {part: place for place, part in enumerate(one.parts)}
    for place, (token, part, (start, end)) in enumerate(zip(one.tokens, one.parts, one.spans, strict=True)):
        value = float(one.attributions[place])
        if part is None:
            found.append({"kind": "special", "text": token, "value": value, "tokens": [token]})
            continue
        text, at = one.texts[part], done[part]
        if end <= at and start < at and found[-1]["kind"] in ("token", "unknown"):
            found[-1]["value"] += value
            found[-1]["tokens"].append(token)
        else:
            start = max(start, at)
            start += len(text[start:end]) - len(text[start:end].lstrip()) if text[start:end].strip() else 0
            found.append({"kind": "plain", "text": text[at:start]})
            shown = text[start:end] if text[start:end].strip() else "␣"
            kind = "unknown" if one.unknown[place] else "token"
            found.append({"kind": kind, "text": shown, "value": value, "tokens": [token]})
        done[part] = max(at, end)
        if place == last[part]:
            rest = text[done[part] :]
            found.append({"kind": "unread" if rest.strip() else "plain", "text": rest})
    return [_toned(piece, found) for piece in found if piece["text"]]


def _toned(piece: dict, pieces: list[dict]) -> dict:
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
