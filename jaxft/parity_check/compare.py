"""jaxft's side of a comparison: computes the inputs of a reference in one padded batch and compares the results."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxft.inference.arguments import counted
from jaxft.inference.model import LoadedModel
from jaxft.models.checkpoint.save import named_tensors
from jaxft.models.heads import TEXT_LEVEL
from jaxft.models.model import Model, Outputs
from jaxft.models.params import Params, bind, trainable
from jaxft.models.part import InputPart
from jaxft.models.spec import Spec
from jaxft.problems import UserError, raise_problems

INPUTS = (".tokens", ".signal")  # endings of the names of inputs in a reference
TOLERANCES = {"hidden": 1e-5, "logits": 1e-5, "loss": 1e-5, "gradient": 1e-4}
TIMES = 2.0  # the error of jaxft in float32 may be this many times that of PyTorch in float32
# A larger error is rounding, not another formula, if jaxft in float64 differs by at most FORMULA times the tolerance,
# and jaxft in float32 by at most ROUNDING times as much as PyTorch. A layer with one very large activation (Sun et al.
# 2024, "Massive activations") depends on the rounding of a single number.
FORMULA, ROUNDING = 0.1, 100.0


Reference = dict[str, np.ndarray]  # the arrays of a file (parity_check/reference.py)
Item = dict[str, Any]  # those of one text, image or sound; None where there is none


@dataclass
class Check:
    """One comparison with PyTorch in float64: the largest difference, relative to the largest number.

    `difference` is that of jaxft in float32, `own` that of PyTorch in float32: in a deep model both are far from
    float64, by different roundings. `exact` is that of jaxft in float64, computed if a comparison in float32 fails.
    """

    what: str
    difference: float
    own: float
    tolerance: float  # allowed whatever `own` is
    exact: float | None = None

    @property
    def limit(self) -> float:
        """The largest allowed difference in float32."""
        return max(self.tolerance, TIMES * self.own)

    @property
    def holds(self) -> bool:
        """Whether jaxft computes the same."""
        if self.difference <= self.limit:  # false for NaN
            return True
        same = self.exact is not None and self.exact <= FORMULA * self.tolerance
        return same and self.difference <= ROUNDING * self.own


def read_reference(file: str | Path) -> Reference:
    """The arrays of a file that `parity --write` wrote. Raises UserError for any other file."""
    try:
        with open(file, "rb") as stream, np.load(stream) as arrays:
            found = dict(arrays)
    except Exception as error:  # whatever numpy and zipfile raise for another file
        raise UserError(f"{file} is not a reference ({type(error).__name__}: {error})") from None
    numbers = {name.partition(".")[0] for name in found if name.endswith(INPUTS)} or {"0"}
    needed = {"head", "loss"} | {f"{number}.{key}" for number in numbers for key in ("hidden", "targets")}
    needed |= set() if any(name.endswith(INPUTS) for name in found) else {"0.tokens"}
    problems = [f"{file} is not a reference: it lacks {name}" for name in sorted(needed - found.keys())]
    if not any(name.startswith("gradient.") for name in found):
        problems.append(f"{file} is not a reference: it has no gradient")
    raise_problems(problems)
    return found


def compare(model: LoadedModel, reference: Reference) -> list[Check]:
    """Compares embeddings, layers, logits and loss in this order, then the gradient of each tensor."""
    if (head := str(reference["head"])) != model.arch.kind:
        raise_problems(
            [f"the reference is that of a model with head {head}, not {model.arch.kind}: give --head={head}"]
        )
    texts = reference_texts(reference)
    raise_problems(_misfits(texts, model))
    checks = checks_of(texts, model, reference, jnp.float32)
    if all(check.holds for check in checks):
        return checks
    with jax.enable_x64(True):
        exact = checks_of(texts, model, reference, jnp.float64)
    return [replace(check, exact=wide.difference) for check, wide in zip(checks, exact, strict=True)]


def checks_of(texts: list[Item], model: LoadedModel, reference: Reference, dtype: DTypeLike) -> list[Check]:
    """Compares jaxft's numbers in `dtype` with a reference's, whose `texts` are `reference_texts`."""
    batch, sources, places = lay_out(texts, model)
    every = Model(model.arch.spec, model.arch.head, hidden="every", dtype=dtype)

    def loss(params: Params) -> tuple[jax.Array, tuple[Any, ...]]:
        out = bind(every, params)(batch)
        values = [_of_text(out, row, place, model) for row, place in enumerate(places)]
        losses = [_loss(value, text["targets"]) for value, text in zip(values, texts, strict=True)]
        pairs = [] if out.pair_logits is None or texts[0]["pair"] is None else list(out.pair_logits)
        if pairs:
            losses += [_loss(pair, text["pair_targets"]) for pair, text in zip(pairs, texts, strict=True)]
        return reduce(jnp.add, losses), (out.hidden, out.memory, values, pairs)

    params = {path: array.astype(dtype) for path, array in model.params.items()}
    with jax.set_mesh(model.mesh), jax.default_matmul_precision("highest"):
        (total, (hidden, memory, values, pairs)), gradients = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    checks: list[Check] = []
    spec = model.arch.spec
    if memory is not None and spec.encoder is not None:
        checks += _hidden_checks(np.asarray(memory), sources, texts, spec.encoder, "memory", "the encoder's ")
    checks += _hidden_checks(np.asarray(hidden), places, texts, spec, "hidden")
    if texts[0]["logits"] is not None:
        found = [(value, text["logits"]) for value, text in zip(values, texts, strict=True)]
        checks.append(_check("logits", found, "logits", _own(texts, "logits")))
    if pairs:
        found = [(pair, text["pair"]) for pair, text in zip(pairs, texts, strict=True)]
        checks.append(_check("logits of pairs", found, "logits", _own(texts, "pair")))
    checks.append(_check("loss", [(total, reference["loss"])], "loss", reference.get("own.loss", 0.0)))
    return checks + _gradient_checks(every, gradients, model, reference)


def reference_texts(reference: Reference) -> list[Item]:
    """The texts, images or sounds of a reference, each with its hidden states, logits and targets."""
    count = sum(name.endswith(INPUTS) for name in reference)
    keys = ("tokens", "signal", "decoder_tokens", "memory", "hidden", "logits", "targets", "pair", "pair_targets")
    texts: list[Item] = [{key: reference.get(f"{number}.{key}") for key in keys} for number in range(count)]
    for number, text in enumerate(texts):  # files of earlier versions have no errors of PyTorch
        text["own"] = {key: reference.get(f"own.{number}.{key}", np.zeros(())) for key in keys}
    return texts


def _own(texts: list[Item], key: str, layer: Any = ...) -> float:
    """The largest difference between PyTorch in float32 and in float64 over all texts."""
    return max(float(text["own"][key][layer if text["own"][key].ndim else ...]) for text in texts)


def _misfits(texts: list[Item], model: LoadedModel) -> list[str]:
    """Why a reference cannot be that of this model."""
    problems: list[str] = []
    spec, embed = model.arch.spec, model.arch.spec.input_side.embed
    signals = embed.argument != "input_ids"
    if any(np.shape(text["signal"]) != (embed.shape if signals else ()) for text in texts):
        wanted = f"{embed.argument} of shape {embed.shape}" if signals else "texts"
        return [f"the reference is not that of a model which reads {wanted}"]
    most = max((int(text["tokens"].max()) for text in texts if not signals), default=-1)
    if most >= embed.vocab:
        problems.append(f"the reference has token {most}, the model ends at {embed.vocab - 1}")
    sides = {"hidden": spec} | ({"memory": spec.encoder} if spec.encoder else {})
    for text in texts:
        length = len(text["tokens"]) if embed.length is None else embed.length
        read = length if text["decoder_tokens"] is None else len(text["decoder_tokens"])
        for name, side in sides.items():
            states = sum(x.num_repeats for x in side.layers) + (side.output_width in (None, side.width))
            found, expected = np.shape(text[name]), (states, read if name == "hidden" else length, side.width)
            if found != expected:
                return [*problems, f"the reference has {name} states of shape {found}, the model {expected} for a text"]
    return problems


def lay_out(texts: list[Item], model: LoadedModel) -> tuple[Any, list[slice], list[slice]]:
    """(a batch with one text per row, every other one padded on the left; the place of each text in its row; the place
    of the decoder's text in its row, without a decoder the same)."""
    if texts[0]["signal"] is None:
        batch, sources = _rows([text["tokens"] for text in texts])
    else:
        batch, sources = _signals([text["signal"] for text in texts], model.arch.spec.input_side.embed)
    places = sources
    if texts[0]["decoder_tokens"] is not None:
        decoder, places = _rows([text["decoder_tokens"] for text in texts])
        batch |= {"decoder_" + name: rows for name, rows in decoder.items()}
    if model.arch.kind in TEXT_LEVEL or model.arch.spec.is_dual_encoder:
        ends = [place.start if model.arch.spec.pool_token == "first" else place.stop - 1 for place in places]
        batch["at"] = np.array(ends, np.int32)[:, None]
    if model.arch.kind == "pretraining":
        batch["pair_at"] = np.array([place.start for place in places], np.int32)[:, None]
    return batch, sources, places


def _rows(texts: list[np.ndarray]) -> tuple[dict[str, np.ndarray], list[slice]]:
    length = max(map(len, texts))
    rows = {name: np.zeros((len(texts), length), np.int32) for name in ("tokens", "segments", "positions")}
    places = [slice(length - len(text), length) if i % 2 else slice(0, len(text)) for i, text in enumerate(texts)]
    for row, (text, place) in enumerate(zip(texts, places, strict=True)):
        rows["tokens"][row, place], rows["segments"][row, place] = text, 1
        rows["positions"][row, place] = np.arange(len(text))
    return rows, places


def _signals(signals: list[np.ndarray], embed: InputPart) -> tuple[dict[str, np.ndarray], list[slice]]:
    """Images or sounds, which fill their rows."""
    assert embed.length is not None
    ones = np.ones((len(signals), embed.length), np.int32)
    batch = {embed.key: np.stack(signals), "segments": ones, "positions": counted(ones)}
    return batch, [slice(0, embed.length)] * len(signals)


def _of_text(out: Outputs, row: int, place: slice, model: LoadedModel) -> jax.Array:
    """The input of the loss for one text: its logits, or without a head its hidden states."""
    logits, is_dual_encoder = out.logits, model.arch.spec.is_dual_encoder
    if logits is None or model.arch.kind == "none" and not is_dual_encoder:  # a pooler gives logits, too
        return out.hidden[-1, row, place]
    if is_dual_encoder:
        return logits[row, :, row, None]  # its similarity to its own image
    return logits[row] if model.arch.kind in TEXT_LEVEL else logits[row, place]


def _loss(value: jax.Array, targets: np.ndarray) -> jax.Array:
    if targets.ndim == 2:
        return jnp.sum((value - targets) ** 2)
    return -jnp.sum(jnp.take_along_axis(jax.nn.log_softmax(value), targets[:, None], 1))


def _hidden_checks(
    hidden: np.ndarray, places: list[slice], texts: list[Item], spec: Spec, key: str, whose: str = ""
) -> list[Check]:
    """Compares hidden states. For a layer that runs several times transformers returns every result, jaxft the last."""
    ends = np.cumsum([0] + [layer.num_repeats for layer in spec.layers])
    names = ["embeddings"] + [f"layer {number}" for number in range(len(ends) - 1)]
    checks = []
    for number, (name, end) in enumerate(zip(names[: len(hidden)], ends[: len(hidden)], strict=True)):
        pairs = [(hidden[number, row, places[row]], text[key][end]) for row, text in enumerate(texts)]
        what = f"hidden states after {whose}{name}" if number else whose + name
        checks.append(_check(what, pairs, "hidden", _own(texts, key, end)))
    return checks


def _gradient_checks(every: Model, gradients: Params, model: LoadedModel, reference: Reference) -> list[Check]:
    found = dict(named_tensors(every, gradients, model.pretrained, model.arch, "float32"))
    expected = {name.removeprefix("gradient."): g for name, g in reference.items() if name.startswith("gradient.")}
    train = set(trainable(every))
    fixed = {tensor.hf for tensor in model.arch.tensor_maps if not train.issuperset(tensor.jaxft)}
    names = sorted((expected.keys() | found.keys()) - fixed)
    # A gradient that is 0 but for rounding, such as that of the keys' bias, is compared with the largest of all.
    least = 1e-2 * max(float(np.abs(gradient).max()) for gradient in expected.values())
    checks: list[Check] = []
    for name in names:
        if name not in expected or name not in found:
            checks.append(Check(f"gradient of {name}, which one side lacks", float("nan"), 0.0, TOLERANCES["gradient"]))
        else:
            own, pairs = reference.get(f"own.gradient.{name}", 0.0), [(found[name], expected[name])]
            checks.append(_check(f"gradient of {name}", pairs, "gradient", own, least))
    return checks


def _check(what: str, pairs: Sequence[tuple[Any, Any]], kind: str, own: Any, least: float = 0.0) -> Check:
    """Compares pairs (found, expected). Differences are relative to the largest expected number, at least to `least`.

    `own` is the largest difference of PyTorch in float32.
    """
    largest = max(*(float(np.abs(expected).max()) for _, expected in pairs), least, 1e-30)
    if any(np.shape(found) != np.shape(expected) for found, expected in pairs):
        return Check(what + ", of another shape", float("nan"), 0.0, TOLERANCES[kind])
    # np.max returns NaN if there is one; max does so only for a NaN that comes first.
    difference = float(np.max([np.abs(np.asarray(found) - expected).max() for found, expected in pairs]))
    return Check(what, difference / largest, float(own) / largest, TOLERANCES[kind])
