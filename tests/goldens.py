"""Hidden states and logits of PyTorch for a small random model of every family: python tests/goldens.py

It writes a file for each family and head in tests/goldens: config.json, the names and shapes of the weights, which are
drawn from a generator by name, and what transformers in PyTorch computes with them. `--check` compares jaxft with the
files, for which PyTorch is not needed, and ends with 1 where they differ.
"""

import json
import os
import sys
import tempfile
import zlib
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jax
import numpy as np
from batches import Inputs, inputs_of, of_texts
from safetensors.numpy import load_file, save_file

import jaxft
from jaxft.models.params import bind

FOLDER = Path(__file__).parent / "goldens"
HEADS = ("seq2seq-lm", "masked-lm", "causal-lm", "image-classification", "sequence-classification")
ALSO = {"clip": ["none"]}  # the texts' side, which the other head leaves out
COLUMNS = 16  # of logits that are written
TOLERANCE = 1e-5  # of the largest value


def weights_of(tensors: dict[str, tuple[list[int], float]]) -> dict[str, np.ndarray]:
    """Name -> float32 normal numbers around the given mean; they depend on the name alone."""
    found = {}
    for name, (shape, mean) in tensors.items():
        noise = np.random.Generator(np.random.Philox(key=zlib.crc32(name.encode()))).standard_normal(shape)
        found[name] = np.asarray(mean + 0.15 * noise, np.float32)
    return found


def columns(logits: np.ndarray) -> np.ndarray:
    """At most COLUMNS of the scores of each position."""
    return logits[..., :: max(1, logits.shape[-1] // COLUMNS)]


def write(family: str, head: str) -> None:
    """Computes a golden with PyTorch."""
    import torch
    import zoo

    with tempfile.TemporaryDirectory() as folder:
        theirs = zoo.make(family, head, Path(folder))
        fixed = {name for name, parameter in theirs.named_parameters() if not parameter.requires_grad}
        fixed |= {name for name, _ in theirs.named_buffers()}
        stored = load_file(Path(folder, "model.safetensors"))
        tensors = {
            name: (list(array.shape), float(round(array.mean())) if array.ndim < 2 else 0.0)
            for name, array in sorted(stored.items())
            if name not in fixed
        }
        save_file(weights_of(tensors), Path(folder, "model.safetensors"), {"format": "pt"})
        theirs, info = type(theirs).from_pretrained(folder, attn_implementation="eager", output_loading_info=True)
        assert set(info["missing_keys"]) <= fixed and not info["unexpected_keys"], info
        spec = jaxft.load(folder).arch.spec
        with torch.no_grad():
            expected = zoo.expected_of(theirs.eval(), spec.input_side.embed.argument, inputs_of(spec, head))
        config = Path(folder, "config.json").read_text()
    found = {"hidden": np.concatenate([hidden.numpy() for hidden, _, _ in expected])}
    if expected[0][1] is not None:
        found["logits"] = columns(np.concatenate([logits.numpy() for _, logits, _ in expected]))
    FOLDER.mkdir(exist_ok=True)
    np.savez_compressed(FOLDER / f"{family}-{head}.npz", config=config, tensors=json.dumps(tensors), **found)


def difference(file: Path, folder: Path) -> float:
    """The largest difference of jaxft's numbers from a golden, relative to the largest of its values, or to 1.

    `folder` gets the model.
    """
    golden = np.load(file)
    (folder / "config.json").write_text(str(golden["config"]))
    weights = weights_of(json.loads(str(golden["tensors"])))
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    ours = jaxft.load(str(folder))
    assert ours.arch.kind == file.stem.partition("-")[2] and not ours.report.new
    inputs = inputs_of(ours.arch.spec, ours.arch.kind)
    found = _computed(ours, inputs)
    assert found.keys() == golden.keys() - {"config", "tensors"}
    return max(_relative(found[name], golden[name]) for name in found)


def _computed(ours, inputs: Inputs) -> dict[str, np.ndarray]:
    def forward(params):
        out = bind(ours.model, params)(inputs.batch)
        return out.hidden, out.logits

    hidden, logits = jax.jit(forward)(ours.params)
    found = {"hidden": np.concatenate(of_texts(np.asarray(hidden), None, inputs.places))}
    if logits is not None and not ours.arch.spec.is_dual_encoder:
        found["logits"] = columns(np.concatenate(of_texts(np.asarray(logits), inputs.reads, inputs.places)))
    return found


def _relative(found: np.ndarray, wanted: np.ndarray) -> float:
    assert found.shape == wanted.shape
    return float(np.abs(found - wanted).max() / max(1.0, np.abs(wanted).max()))


def check() -> int:
    """Prints each golden's difference; 1 if one is too large."""
    bad = 0
    for file in sorted(FOLDER.glob("*.npz")):
        with tempfile.TemporaryDirectory() as folder:
            found = difference(file, Path(folder))
        bad |= not found < TOLERANCE
        print(f"{file.stem:40} {found:.1e}{'' if found < TOLERANCE else '  differs'}")
    return int(bad)


def main():
    if sys.argv[1:] == ["--check"]:
        sys.exit(check())
    from zoo import FAMILIES, heads_of

    for family in FAMILIES:
        head = next(head for head in HEADS if head in heads_of(family))
        for one in [head, *ALSO.get(family, [])]:
            write(family, one)


if __name__ == "__main__":
    main()
