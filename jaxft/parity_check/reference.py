"""PyTorch's side of a proof: what transformers computes with a model directory, as one .npz file. Imports no JAX.

Of each text, alone and without padding (n tokens, L layers, w wide, s slots of the head, c scores):
    I.tokens  int32 (n,)                I.hidden   float32 (L + 1, n, w): the embeddings, and after each layer
    (or I.signal  float32, an image or a sound)
    I.logits  float32 (s, c)            I.targets  int32 (s,); float32 (n, w) without a head, (s, 1) for one score
    I.pair    float32 (1, classes)      I.pair_targets  int32 (1,), of a head for pretraining with scores of pairs
and of an encoder-decoder, whose `hidden` is the decoder's, (L + 1, m, w):
    I.decoder_tokens  int32 (m,), if that is another text      I.memory  the encoder's hidden states
and over all of them `loss`, summed, `gradient.NAME` of every tensor NAME of the checkpoint, and `head`.

All of it is computed in float64 and rounded. `own.X` is the largest difference between that and the same computation of
PyTorch in float32, of hidden states and memory (L + 1,), one for each layer, else a number.
"""

import dataclasses
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file

SIGNALS = 3  # images or sounds


@dataclasses.dataclass
class Job:
    """What to compute, and with which class of transformers."""

    directory: str
    head: str
    architecture: str
    texts: list[list[int]]  # what is read, or where that is a signal nothing
    seed: int
    decoder_texts: list[list[int]] | None = None  # that a decoder reads, if they are others
    # An image or a sound for each of the decoder's texts, or three: its argument, its shape, and how texts are called.
    signal: tuple[str, tuple[int, ...], str] | None = None

    def inputs(self, rng) -> Iterator[tuple[dict[str, np.ndarray], dict[str, torch.Tensor]]]:
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
    """Inside, float64 stands for float32 wherever a model asks for it, as many do for norms, angles and softmax.

    Without it the roundings of these would be in both computations, and own.X would be less than they are.
    """

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is torch.Tensor.float:
            function = torch.Tensor.double
        return function(*map(_widened, args), **{name: _widened(value) for name, value in (kwargs or {}).items()})


def _widened(value):
    return torch.float64 if value is torch.float32 else value


def compute(job: Job, dtype: torch.dtype) -> dict[str, np.ndarray]:
    """What PyTorch computes, in the dtype; tokens, signals and targets are the same in all."""
    config = transformers.AutoConfig.from_pretrained(job.directory)
    config._attn_implementation = config._experts_implementation = "eager"  # others compute in float32 at most
    model = getattr(transformers, job.architecture).from_pretrained(job.directory, config=config, dtype=dtype)
    model.to(dtype).eval()  # from_pretrained leaves what a model makes by torch.FloatTensor
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            module.padding_idx = None  # or its row would get no gradient, though it is also the end of a text for some
    results = []  # of the backbone, whose last hidden states are in some families those before the last norm
    model.base_model.register_forward_hook(lambda module, given, out: results.append(out.get("last_hidden_state")))
    rng, loss, arrays = np.random.default_rng(job.seed), 0.0, {"head": np.array(job.head)}
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
        if logits is None or logits.shape[-1] == 1:  # of a single score the cross entropy is always 0
            targets = np.float32(rng.standard_normal(values.shape))
            loss = loss + ((values - torch.tensor(targets).to(dtype)) ** 2).sum()
        else:
            targets, entropy = cross_entropy(logits, rng)
            loss = loss + entropy
        arrays[f"{number}.targets"] = targets
        if pair is not None:
            arrays[f"{number}.pair"] = pair.detach().numpy()
            arrays[f"{number}.pair_targets"], entropy = cross_entropy(pair, rng)
            loss = loss + entropy
    loss.backward()
    return arrays | {"loss": np.float64(loss.item())} | gradients_of(model)


def states_of(out, result: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor | None]:
    """(L + 1, n, w) of a batch of one, and those of an encoder, or of the images beside the texts.

    `result` is that of the backbone.
    """
    if "text_model_output" in out:
        sides = out.text_model_output, out.vision_model_output
        return tuple(torch.cat([*side.hidden_states[:-1], side.last_hidden_state]) for side in sides)
    states = out.decoder_hidden_states if "decoder_hidden_states" in out else out.hidden_states
    states = [state for state in states if state.shape == states[0].shape]  # a narrower result is left out
    if result is not None and result.shape == states[-1].shape:
        states[-1] = result
    return torch.cat(states), torch.cat(out.encoder_hidden_states) if "encoder_hidden_states" in out else None


def cross_entropy(logits: torch.Tensor, rng) -> tuple[np.ndarray, torch.Tensor]:
    """(random targets, the summed error)."""
    targets = rng.integers(0, logits.shape[-1], len(logits)).astype(np.int32)
    return targets, torch.nn.functional.cross_entropy(logits, torch.tensor(targets).long(), reduction="sum")


def pair_of(out) -> torch.Tensor | None:
    """(1, classes) of a batch of one text, where there are scores of pairs."""
    return out.get("seq_relationship_logits", out.get("sop_logits"))


def logits_of(out, head: str) -> torch.Tensor | None:
    """(slots, scores) of a batch of one text."""
    if "logits_per_text" in out:
        return out.logits_per_text
    if "start_logits" in out:
        return torch.stack([out.start_logits[0], out.end_logits[0]], -1)
    if head == "pretraining":  # of a masked language model, or one score for each token
        return out.prediction_logits[0] if "prediction_logits" in out else out.logits[0][:, None]
    return out.logits.reshape(-1, out.logits.shape[-1]) if "logits" in out else None


def gradients_of(model) -> dict[str, np.ndarray]:
    """Written like weights, so that they have the names of a checkpoint, which are not always those of the module."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    model._weight_conversions = None  # or names of former checkpoints would come back, such as gamma and beta
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        files = sorted(Path(folder).glob("*.safetensors"))
        return {f"gradient.{name}": array for file in files for name, array in load_file(file).items()}


if __name__ == "__main__":
    job_file, output = sys.argv[1:]
    transformers.logging.set_verbosity_error()
    np.savez(output, **reference(Job(**json.loads(Path(job_file).read_text()))))
