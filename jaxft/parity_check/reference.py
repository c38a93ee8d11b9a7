"""PyTorch's side of a comparison: the results of transformers with a model directory, as an .npz file. Imports no JAX.

For text number I, alone and without padding (n tokens, L layers, width w, s predictions of the head, c scores):
    I.tokens  int32 (n,)                I.hidden   float32 (L + 1, n, w): the embeddings, and after each layer
    (or I.signal  float32, an image or a sound)
    I.logits  float32 (s, c)            I.targets  int32 (s,); float32 (n, w) without a head, (s, 1) for one score
    I.pair    float32 (1, classes)      I.pair_targets  int32 (1,), for pretraining heads with sentence pairs
for an encoder-decoder, where `hidden` is the decoder's, (L + 1, m, w):
    I.decoder_tokens  int32 (m,), if that is another text      I.memory  the encoder's hidden states
and for all texts together `loss`, the sum, `gradient.NAME` for every tensor NAME of the checkpoint, and `head`.

Everything is computed in float64 and rounded. `own.X` is the largest difference between X in float64 and in float32,
both in PyTorch; for hidden states and memory (L + 1,), one for each layer, else a number.
"""

import dataclasses
import functools
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file

SIGNALS = 3  # images or sounds


@dataclasses.dataclass
class Job:
    """What to compute, with which class of transformers."""

    directory: str
    head: str
    architecture: str
    texts: list[list[int]]  # inputs; empty if the model reads images or sounds
    seed: int
    decoder_texts: list[list[int]] | None = None  # inputs of the decoder, if they are others
    # Images or sounds, one for each of the decoder's texts, or SIGNALS: (argument, shape, argument of the texts).
    signal: tuple[str, tuple[int, ...], str] | None = None

    def inputs(self, rng: np.random.Generator) -> Iterator[tuple[dict[str, np.ndarray], dict[str, torch.Tensor]]]:
        """(arrays of the reference, arguments of the model) for each text or signal."""
        argument, shape, decoder = self.signal or ("input_ids", (), "decoder_input_ids")
        for number in range(len(self.texts or self.decoder_texts or range(SIGNALS))):
            if self.signal:
                read = {"signal": rng.standard_normal(shape).astype(np.float32)}
            else:
                read = {"tokens": np.array(self.texts[number], np.int32)}
            (value,) = read.values()
            given = {argument: torch.tensor(value[None] if self.head != "multiple-choice" else value[None, None])}
            if self.decoder_texts is not None:
                read["decoder_tokens"] = np.array(self.decoder_texts[number], np.int32)
                given[decoder] = torch.tensor(read["decoder_tokens"][None])
            yield read, {name: ids if ids.is_floating_point() else ids.long() for name, ids in given.items()}


def reference(job: Job) -> dict[str, np.ndarray]:
    """The arrays of the file."""
    with InFloat64():
        wide = compute(job, torch.float64)
    narrow, arrays = compute(job, torch.float32), {}
    for name, value in wide.items():
        if value.dtype != np.float64:
            arrays[name] = value
            continue
        layers = tuple(range(name.endswith((".hidden", ".memory")), value.ndim))  # the axes of one layer
        arrays[name] = value.astype(np.float32)
        arrays[f"own.{name}"] = np.max(np.abs(value - narrow.pop(name)), axis=layers)
    return arrays


class InFloat64(torch.overrides.TorchFunctionMode):
    """A context in which models that ask for float32, as many do in norms, rotary embeddings and softmax, get float64.

    Otherwise both computations would have the same rounding errors there, and own.X would be too small.
    """

    def __torch_function__(
        self, function: Callable, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replaces float32 in the arguments by float64."""
        if function is torch.Tensor.float:
            function = torch.Tensor.double
        return function(*map(_widened, args), **{name: _widened(value) for name, value in (kwargs or {}).items()})


def _widened(value: Any) -> Any:
    return torch.float64 if value is torch.float32 else value


def compute(job: Job, dtype: torch.dtype) -> dict[str, np.ndarray]:
    """PyTorch's results in `dtype`; inputs and targets do not depend on it."""
    config = transformers.AutoConfig.from_pretrained(job.directory)
    config._attn_implementation = config._experts_implementation = "eager"  # others do not support float64
    model = getattr(transformers, job.architecture).from_pretrained(job.directory, config=config, dtype=dtype)
    model.to(dtype).eval()  # from_pretrained does not convert what a model creates as torch.FloatTensor
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            module.padding_idx = None  # its row needs a gradient: in some families it is the end of a text, too
    # The backbone's output: in some families the last of `hidden_states` is that before the final norm.
    results: list[torch.Tensor | None] = []
    model.base_model.register_forward_hook(lambda module, given, out: results.append(out.get("last_hidden_state")))
    rng, losses, arrays = np.random.default_rng(job.seed), list[torch.Tensor](), {"head": np.array(job.head)}
    for number, (read, given) in enumerate(job.inputs(rng)):
        given = {name: value.to(dtype) if value.is_floating_point() else value for name, value in given.items()}
        out = model(**given, output_hidden_states=True)
        hidden, memory = states_of(out, results[-1] if results else None)
        logits, pair = logits_of(out, job.head), pair_of(out)
        arrays |= {f"{number}.{name}": values for name, values in read.items()}
        if memory is not None:
            arrays[f"{number}.memory"] = memory.detach().numpy()
        arrays[f"{number}.hidden"] = hidden.detach().numpy()
        if logits is not None:
            arrays[f"{number}.logits"] = logits.detach().numpy()
        values = hidden[-1] if logits is None else logits
        if logits is None or logits.shape[-1] == 1:  # the cross entropy of a single score is always 0
            arrays[f"{number}.targets"], error = squared_error(values, rng)
        else:
            arrays[f"{number}.targets"], error = cross_entropy(logits, rng)
        losses.append(error)
        if pair is not None:
            arrays[f"{number}.pair"] = pair.detach().numpy()
            arrays[f"{number}.pair_targets"], error = cross_entropy(pair, rng)
            losses.append(error)
    loss = functools.reduce(torch.add, losses)
    loss.backward()
    return arrays | {"loss": np.array(loss.item(), np.float64)} | gradients_of(model)


def states_of(out: Any, result: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Hidden states (L + 1, n, w) of one text, and those of the encoder, or of the image in a dual encoder.

    `result` is the output of the backbone.
    """
    if "text_model_output" in out:
        sides = out.text_model_output, out.vision_model_output
        texts, images = (torch.cat([*side.hidden_states[:-1], side.last_hidden_state]) for side in sides)
        return texts, images
    states = out.decoder_hidden_states if "decoder_hidden_states" in out else out.hidden_states
    states = [state for state in states if state.shape == states[0].shape]  # leave out a last state of another width
    if result is not None and result.shape == states[-1].shape:
        states[-1] = result
    return torch.cat(states), torch.cat(out.encoder_hidden_states) if "encoder_hidden_states" in out else None


def squared_error(values: torch.Tensor, rng: np.random.Generator) -> tuple[np.ndarray, torch.Tensor]:
    """(random targets, summed squared error)."""
    targets = rng.standard_normal(values.shape).astype(np.float32)
    return targets, ((values - torch.tensor(targets).to(values.dtype)) ** 2).sum()


def cross_entropy(logits: torch.Tensor, rng: np.random.Generator) -> tuple[np.ndarray, torch.Tensor]:
    """(random targets, summed cross entropy)."""
    targets = rng.integers(0, logits.shape[-1], len(logits)).astype(np.int32)
    return targets, torch.nn.functional.cross_entropy(logits, torch.tensor(targets).long(), reduction="sum")


def pair_of(out: Any) -> torch.Tensor | None:
    """Logits of sentence pairs (1, classes) for a batch of one text, if there are any."""
    return out.get("seq_relationship_logits", out.get("sop_logits"))


def logits_of(out: Any, head: str) -> torch.Tensor | None:
    """Logits (predictions, scores) for a batch of one text, if there are any."""
    if "logits_per_text" in out:
        return out.logits_per_text
    if "start_logits" in out:
        return torch.stack([out.start_logits[0], out.end_logits[0]], -1)
    if head == "pretraining":  # masked language modelling, or one score per token
        return out.prediction_logits[0] if "prediction_logits" in out else out.logits[0][:, None]
    return out.logits.reshape(-1, out.logits.shape[-1]) if "logits" in out else None


def gradients_of(model: Any) -> dict[str, np.ndarray]:
    """Gradients by the names of a checkpoint, which differ from those of the module: they are saved like weights."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    model._weight_conversions = None  # otherwise old names such as gamma and beta are saved
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        files = sorted(Path(folder).glob("*.safetensors"))
        return {f"gradient.{name}": array for file in files for name, array in load_file(file).items()}


if __name__ == "__main__":
    job_file, output = sys.argv[1:]
    transformers.logging.set_verbosity_error()
    arrays: dict[str, Any] = dict(reference(Job(**json.loads(Path(job_file).read_text()))))
    np.savez(output, **arrays)
