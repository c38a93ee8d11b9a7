"""Computes a reference with PyTorch, in a process of its own."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from jaxft.inference.model import LoadedModel
from jaxft.models.heads import READ_AGAIN
from jaxft.models.spec import Spec
from jaxft.parity_check.compare import read_reference
from jaxft.problems import RunStopped, raise_problems

LENGTHS = (13, 9, 2, 8)  # tokens of the random texts


def make_inputs(model: LoadedModel, texts: list[str], seed: int = 0) -> dict[str, np.ndarray]:
    """A reference (parity_check/reference.py) for random inputs and the given texts, computed by PyTorch in another
    process."""
    if find_spec("torch") is None:
        raise_problems(["PyTorch is not installed: pip install torch, or give --reference=FILE, written elsewhere"])
    if texts and (argument := model.arch.spec.input_side.embed.argument) != "input_ids":
        raise_problems([f"--input has texts, and this model reads {argument}: leave it out to compare random ones"])
    if model.arch.kind != "none":
        raise_problems(f"the checkpoint has no {name}: there is nothing to compare" for name in model.report.new)
    job = reference_job(model, texts, seed)
    with tempfile.TemporaryDirectory() as folder:
        file, output = Path(folder) / "job.json", Path(folder) / "reference.npz"
        file.write_text(json.dumps(job))
        command = [sys.executable, "-m", "jaxft.parity_check.reference", str(file), str(output)]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise RunStopped(f"PyTorch's process ended with exit code {done.returncode}:\n{done.stderr[-2000:]}")
        return read_reference(output)


def reference_job(model: LoadedModel, texts: list[str], seed: int) -> dict[str, Any]:
    """The fields of `Job` (parity_check/reference.py), with random texts and the given ones."""
    rng, spec, config = np.random.default_rng(seed), model.arch.spec, model.pretrained.reader
    embed, limit = spec.input_side.embed, spec.max_positions or max(LENGTHS)
    end = config.get("eos_token_id") if spec.end is None else spec.end

    def drawn(side: Spec, lengths: Iterable[int]) -> list[list[int]]:
        # transformers finds the end of a text by the padding token, in some families by an end token.
        excluded = [config.get("pad_token_id", 0), *([] if spec.end is None else [end])]
        ids = np.setdiff1d(np.arange(side.embed.vocab), excluded)
        return [rng.choice(ids, min(length, limit)).tolist() for length in lengths]

    job: dict[str, Any] = {
        "directory": str(model.pretrained.directory),
        "head": model.arch.kind,
        "architecture": model.pretrained.family.architectures[model.arch.kind],
        "texts": [],
        "seed": seed,
    }
    if embed.argument == "input_ids":
        job["texts"] = drawn(spec.input_side, LENGTHS)
        if spec.encoder is not None:
            _put_ends(job["texts"], end)
        given = [model.tokenizer(text, truncation=True, max_length=model.longest) for text in texts]
        job["texts"] += [text["input_ids"] for text in given]
    else:
        job["signal"] = embed.argument, embed.shape, "input_ids" if spec.is_dual_encoder else "decoder_input_ids"
    if spec.encoder is not None and model.arch.kind not in READ_AGAIN:
        lengths = [1 + len(text) // 2 for text in job["texts"]] or LENGTHS
        job["decoder_texts"] = drawn(spec, lengths)
        if spec.is_dual_encoder:
            _put_ends(job["decoder_texts"], end)
    return job


def _put_ends(texts: list[list[int]], end: int | None) -> None:
    for text in texts:
        text[-1] = text[-1] if end is None else end
