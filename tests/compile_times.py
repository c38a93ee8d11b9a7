"""How long the gradient of each family's small random model compiles: python tests/compile_times.py [FAMILY ...]

With dropout, four rows of 13 tokens, the models of tests/zoo.py, XLA's usual optimizations, one device. Prints seconds,
and how many times the median of the families that are built alike (encoders, decoders, both together).
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "0"

import jax
import jax.numpy as jnp
from batches import batch_of, signals_of, targets_of
from zoo import FAMILIES, SIGNALS, heads_of, make

from jaxft.models.checkpoint.pretrained import architecture, open_pretrained
from jaxft.models.model import Model
from jaxft.models.params import bind, shape, variables

HEADS = ("masked-lm", "seq2seq-lm", "causal-lm", "none")


def seconds(family: str) -> tuple[str, float]:
    """(how it is built, seconds that its gradient compiles)"""
    head = next(head for head in HEADS if head in heads_of(family))
    with tempfile.TemporaryDirectory() as folder:
        make(family, head, Path(folder))
        arch = architecture(open_pretrained(folder), dropout=0.1)
    model, decodes = Model(arch.spec, arch.head), arch.spec.encoder is not None
    batch = signals_of(arch.spec.input_side.embed, decodes)[0] if family in SIGNALS else batch_of(None)[1]
    batch |= targets_of()[1] if decodes and family not in SIGNALS else {}

    def loss(params, key):
        out = bind(model, params)(batch, key)
        return jnp.sum((out.hidden if head == "none" else out.logits) ** 2)

    params = {path: jax.ShapeDtypeStruct(shape(v), jnp.float32) for path, v in variables(model).items()}
    begin = time.perf_counter()
    jax.jit(jax.value_and_grad(loss)).lower(params, jax.random.key(0)).compile()
    causal = arch.spec.layers[0].attn.causal
    return "both" if decodes else "decoder" if causal else "encoder", time.perf_counter() - begin


def main():
    jax.config.update("jax_enable_compilation_cache", False)
    found = {family: seconds(family) for family in sys.argv[1:] or FAMILIES}
    for kind in ("encoder", "decoder", "both"):
        times = {family: taken for family, (built, taken) in found.items() if built == kind}
        for family, taken in sorted(times.items(), key=lambda item: item[1]):
            print(f"{kind:8} {family:12} {taken:5.1f} s  {taken / statistics.median(times.values()):.2f}")


if __name__ == "__main__":
    main()
