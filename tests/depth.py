"""How long the training step of a model compiles, by its number of layers: python tests/depth.py [LAYERS ...]

MiniLM's shape (width 384, 12 heads), 16 rows of 128 tokens, all weights training; 6 and 48 layers unless told. Prints
the seconds of three rounds that take turns.
"""

import json
import statistics
import sys
import tempfile
import time
from pathlib import Path

import jax
import jax.numpy as jnp

from jaxft.assets import path
from jaxft.config import Config, Mesh
from jaxft.data import Data
from jaxft.tasks.classify import Classify
from jaxft.training.compiled import CompiledSteps, compiled_steps
from jaxft.training.setup import build

ROWS, LENGTH = 16, 128


def deep(layers: int, folder: Path) -> CompiledSteps:
    """A run of random weights with so many layers."""
    source = Path(path("tiny-encoder"))
    settings = json.loads((source / "config.json").read_text())
    settings |= {"num_hidden_layers": layers, "hidden_size": 384, "num_attention_heads": 12, "intermediate_size": 1536}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(settings))
    for file in source.glob("*token*"):
        (folder / file.name).write_bytes(file.read_bytes())
    data = Data(path=path("brown-genres/train.csv"))
    cfg = Config(
        model=str(folder),
        task=Classify(),
        data=data,
        lr=1e-4,
        batch=ROWS,
        steps=5,
        max_len=LENGTH,
        init="random",
        mesh=Mesh(data=1),
    )
    return compiled_steps(build(cfg), 5)


def arguments(run: CompiledSteps):
    """What a step gets, without values."""
    tokens = jax.ShapeDtypeStruct((ROWS, LENGTH), jnp.int32)
    batch = dict.fromkeys(("tokens", "segments", "positions", "types"), tokens)
    for key, kind in {"at": jnp.int32, "targets": jnp.int32, "weights": jnp.float32}.items():
        batch[key] = jax.ShapeDtypeStruct((ROWS, 1), kind)
    return run.abstract_state(), {}, batch


def lowered(run: CompiledSteps):
    """The gradient's program, whose size depends on the model, before XLA compiles it."""
    state, frozen, batch = arguments(run)
    seed = jax.ShapeDtypeStruct((), jnp.uint32)
    with jax.set_mesh(run.built.mesh):
        return run.gradient.lower(state.params, state.step, frozen, batch, seed=seed)


def main():
    jax.config.update("jax_enable_compilation_cache", False)
    depths = [int(word) for word in sys.argv[1:]] or [6, 48]
    seconds = {layers: [] for layers in depths}
    with tempfile.TemporaryDirectory() as folder:
        runs = {layers: deep(layers, Path(folder) / str(layers)) for layers in depths}
        for _ in range(3):
            for layers, run in runs.items():
                jax.clear_caches()
                begin = time.perf_counter()
                with jax.set_mesh(run.built.mesh):
                    run.compile(*arguments(run))
                seconds[layers].append(time.perf_counter() - begin)
    for layers, found in seconds.items():
        print(f"{layers} layers: {statistics.median(found):.1f} s of {', '.join(f'{x:.1f}' for x in found)}")


if __name__ == "__main__":
    main()
