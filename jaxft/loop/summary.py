"""What a run is, before its first step: what trains, how large, how many steps, how fast the chips could be."""

import math
import re

import jax

from jaxft.host_memory import peak_bytes
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
    masked or not; recomputation (remat) does not count.
    """
    rows, length = batch["tokens"].shape
    slots = math.prod(batch.get("at", batch["tokens"]).shape)
    lowest = min((_depth(model, path) for path in trained), default=math.inf)
    total = 0.0
    for path, variable in variables(model).items():
        if not path.endswith((".kernel", ".embedding")):
            continue
        size = math.prod(shape(variable))
        if path.startswith("embed.") and path.endswith(".embedding"):
            tied = path == "embed.tokens.embedding" and getattr(model.head, "table", 0) is None
            total += tied * 2 * size * slots * (2 + (path in trained))
            continue
        positions = slots if path.startswith("head.") or _at_slots(model, path) else rows * length
        positions += (_times(model, path) - 1) * rows * length
        # In a loop over layers each of them hands a gradient down, the lowest too.
        depth = _depth(model, path)
        inputs = depth > lowest or depth == lowest and _loops(model, path)
        total += 2 * size * positions * (1 + inputs + (path in trained))
    for number, segment in enumerate(model.layers.plan):
        query = f"layers.segments.{number}.0.attn.q.kernel"
        backward = 2 if _depth(model, query) >= lowest else 0
        queries = slots if _at_slots(model, query) else rows * length
        queries += (_times(model, query) - 1) * rows * length
        for place in range(segment.period):
            part = model.spec.layers[segment.start + place].attn
            total += segment.repeats * (1 + backward) * 4 * queries * length * part.heads * part.head_dim
    return total


def _at_slots(model: Model, path: str) -> bool:
    """Whether a parameter of the last layer is used only where the head reads: all but keys and values."""
    last = f"layers.segments.{len(model.layers.plan) - 1}."
    return model.hidden == "read" and path.startswith(last) and ".attn.k." not in path and ".attn.v." not in path


def _times(model: Model, path: str) -> int:
    """How often a parameter's layer runs."""
    if not path.startswith("layers."):
        return 1
    number, place = re.match(r"layers\.segments\.(\d+)\.(\d+)", path).groups()
    return model.spec.layers[model.layers.plan[int(number)].layer(0, int(place))].times


# Parts of a layer from its input up, by the number of their row: what trains in one needs gradients from those above.
ORDER = (
    ("norms.attn_in",),
    ("attn.q", "attn.k", "attn.v", "attn.q_norm", "attn.k_norm"),
    ("attn.o",),
    ("norms.attn_out", "norms.attn_res", "norms.mlp_in"),
    ("mlp.gate", "mlp.up"),
    ("mlp.down",),
    ("norms.mlp_out", "norms.mlp_res"),
)


def _depth(model: Model, path: str) -> float:
    """How far up in the model a parameter is.

    -1 embeddings, -0.5 the map behind them, then segments of the stack (where one is a single layer, tenths for its
    parts), infinity what is above.
    """
    if path.startswith("embed."):
        return -0.5 if path.startswith("embed.project.") else -1
    if not path.startswith("layers."):
        return math.inf
    number = _segment(path)
    if _loops(model, path):
        return number
    return number + next(row for row, names in enumerate(ORDER) if any(f".{name}." in path for name in names)) / 10


def _loops(model: Model, path: str) -> bool:
    return path.startswith("layers.") and (model.layers.plan[_segment(path)].repeats > 1 or _times(model, path) > 1)


def _segment(path: str) -> int:
    return int(re.match(r"layers\.segments\.(\d+)", path)[1])


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
