"""What a run is, before its first step: what trains, how large, how many steps, how fast the chips could be."""

import math
import re

import jax

from jaxft.host.memory import peak_bytes
from jaxft.models.checkpoint.encoder_only import Unused
from jaxft.models.model import Model
from jaxft.models.params import shape, variables

# Dense bfloat16 peak of one chip, FLOP/s, from the makers' data sheets; by words of JAX's `device_kind`. Of names that
# begin alike the longer comes first.
PEAK_FLOPS = {
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6 lite": 918e12,
    "TPU v6e": 918e12,
    "A100": 312e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200": 989e12,
    "B200": 2250e12,
    "L40S": 362e12,
    "L4": 121e12,
}


def flops(model: Model, trained: set[str], batch: dict) -> float:
    """Floating-point operations of one training step on `batch`: matrix products and attention, forward and backward.

    A product with a (i, o) kernel costs 2io a token forward, as much again for the gradient of its input where
    something below it trains, and again for the kernel's own gradient if it trains. Attention counts every key,
    masked or not; recomputation (remat) does not count. An encoder is below all of its decoder.
    """
    slots = math.prod(batch.get("at", batch.get("decoder_tokens", batch["tokens"])).shape)
    lowest = min((_depth(model, path) for path in trained), default=math.inf)
    total = 0.0
    for path, variable in variables(model).items():
        idle = ".cross." in path and model.encoder is None
        if idle or not path.endswith((".kernel", ".embedding")):
            continue
        size = math.prod(shape(variable)) * _share(model, path)
        if path.removeprefix("encoder.").startswith("embed.") and path.endswith(".embedding"):
            tied = path == "embed.tokens.embedding" and getattr(model.head, "table", 0) is None
            total += tied * 2 * size * slots * (2 + (path in trained))
            continue
        positions = slots if path.startswith("head.") or _at_slots(model, path) else _tokens(path, batch)
        positions += (_times(model, path) - 1) * _tokens(path, batch)
        depth = _depth(model, path)
        if _reads_memory(path):
            inputs = lowest < -1
        else:  # In a loop over layers each of them hands a gradient down, the lowest too.
            inputs = depth > lowest or depth == lowest and _loops(model, path)
        total += 2 * size * positions * (1 + inputs + (path in trained))
    return total + sum(_attention(model, name, lowest, slots, batch) for name in ("", "encoder."))


def _attention(model: Model, name: str, lowest: float, slots: int, batch: dict) -> float:
    """Of the scores of one side and what they gather; the products with kernels left out."""
    backbone, total = _backbone(model, name), 0.0
    for number, segment in enumerate(backbone.layers.plan if backbone else ()):
        for place in range(segment.period):
            layer = backbone.spec.layers[segment.start + place]
            for kind, part in (("attn", layer.attn), ("cross", layer.cross)):
                query, key = (f"{name}layers.segments.{number}.{place}.{kind}.{x}.kernel" for x in "qk")
                if part is None or isinstance(part, Unused):
                    continue
                backward = 2 if _depth(model, query) >= lowest else 0
                queries = slots if _at_slots(model, query) else _tokens(query, batch)
                queries += (_times(model, query) - 1) * _tokens(query, batch)
                keys = _tokens(key, batch) // batch["tokens"].shape[0]
                total += segment.repeats * (1 + backward) * 4 * queries * keys * part.heads * part.head_dim
    return total


def _tokens(path: str, batch: dict) -> int:
    """How many tokens a kernel meets: those of the encoder's text or the decoder's, where there are both."""
    source = path.startswith("encoder.") or _reads_memory(path) or "decoder_tokens" not in batch
    return math.prod(batch["tokens" if source else "decoder_tokens"].shape)


def _reads_memory(path: str) -> bool:
    """Whether a kernel takes the encoder's result into the decoder."""
    return re.search(r"\.cross\.[kv]\.", path) is not None


def _share(model: Model, path: str) -> float:
    """To which part of the tokens a kernel applies: an expert's only to those that have chosen it."""
    if ".mlp.experts." not in path:
        return 1.0
    number, place = re.search(r"layers\.segments\.(\d+)\.(\d+)", path).groups()
    backbone = _backbone(model, path)
    part = backbone.spec.layers[backbone.layers.plan[int(number)].layer(0, int(place))].mlp
    part = getattr(part, "experts", part)
    return part.chosen / part.count


def _backbone(model: Model, path: str):
    return model.encoder if path.startswith("encoder.") else model


def _at_slots(model: Model, path: str) -> bool:
    """Whether a parameter of the last layer is used only where the head reads: all but keys and values."""
    last = f"layers.segments.{len(model.layers.plan) - 1}."
    return model.hidden == "read" and path.startswith(last) and not re.search(r"\.(attn|cross)\.[kv]\.", path)


def _times(model: Model, path: str) -> int:
    """How often a parameter's layer runs."""
    if not (found := re.match(r"(?:encoder\.)?layers\.segments\.(\d+)\.(\d+)", path)):
        return 1
    number, place = map(int, found.groups())
    backbone = _backbone(model, path)
    return backbone.spec.layers[backbone.layers.plan[number].layer(0, place)].num_repeats


# Parts of a layer from its input up, by the number of their row: what trains in one needs gradients from those above.
ORDER = (
    ("norms.attn_in",),
    ("attn.q", "attn.k", "attn.v", "attn.q_norm", "attn.k_norm", "attn.distances"),
    ("attn.o",),
    ("norms.attn_out", "norms.attn_res", "norms.cross_in"),
    ("cross.q", "cross.k", "cross.v"),
    ("cross.o",),
    ("norms.cross_res", "norms.mlp_in"),
    ("mlp.gate", "mlp.up", "mlp.router", "mlp.experts.gate", "mlp.experts.up", "mlp.share", "mlp.shared"),
    ("mlp.down", "mlp.experts.down"),
    ("norms.mlp_out", "norms.mlp_res"),
)
SLOTS = ((1, "attn"), (4, "cross"), (7, "mlp"))  # the row of what else a family has there
BELOW = 10**6  # how far an encoder is below its decoder


def _depth(model: Model, path: str) -> float:
    """How far up in the model a parameter is.

    -1 embeddings, -0.5 what stands between them and the layers, then segments of the stack (where one is a single
    layer, hundredths for its parts), infinity what is above.
    """
    if path.startswith("encoder."):
        return min(_place(model, path), BELOW - 1) - BELOW
    if path == "embed.tokens.embedding" and model.encoder is not None and model.encoder.spec.embed.shared_embedding:
        return -1 - BELOW
    return _place(model, path)


def _place(model: Model, path: str) -> float:
    """`_depth` within a side."""
    inner = path.removeprefix("encoder.")
    if inner.startswith(("embed.", "distances.")):
        return -0.5 if inner.startswith(("embed.project.", "distances.")) else -1
    if not inner.startswith("layers."):
        return math.inf
    number = _segment(path)
    if _loops(model, path):
        return number
    rows = [row for row, names in enumerate(ORDER) if any(f".{name}." in path for name in names)]
    return number + (rows or [row for row, slot in SLOTS if f".{slot}." in path])[0] / 100


def _loops(model: Model, path: str) -> bool:
    if "layers.segments." not in path:
        return False
    return _backbone(model, path).layers.plan[_segment(path)].repeats > 1 or _times(model, path) > 1


def _segment(path: str) -> int:
    return int(re.match(r"(?:encoder\.)?layers\.segments\.(\d+)", path)[1])


def peak_flops() -> float | None:
    """Peak of all devices together; None where the chip is not in the table."""
    kind = jax.devices()[0].device_kind
    known = [peak for name, peak in PEAK_FLOPS.items() if re.search(rf"\b{name}\b", kind)]
    return known[0] * jax.device_count() if known else None


def memory_bytes() -> int:
    """Most memory in use so far: of the fullest local device, or of this process on CPU."""
    stats = [device.memory_stats() for device in jax.local_devices()]
    if all(stats):
        return max(stat["peak_bytes_in_use"] for stat in stats)
    return peak_bytes()


def human(number: float) -> str:
    """1,234 or 22.7 M or 1.5 G."""
    for scale, unit in ((1e9, "G"), (1e6, "M")):
        if number >= scale:
            return f"{number / scale:.3g} {unit}"
    return f"{number:,.0f}"
