"""Models with random soft prompts, packed rows for them, and PEFT's outputs for the same texts."""

import warnings
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import peft
import torch
from batches import END

from jaxft.adapters.adapted import is_adapter
from jaxft.config import Config
from jaxft.models.checkpoint.load import find_weights, place
from jaxft.models.checkpoint.pretrained import architecture, open_pretrained
from jaxft.models.params import names, shardings, variables
from jaxft.parallel.mesh import make_mesh
from jaxft.training.setup import build_model

LENGTHS = (9, 4, 3, 7)  # of the texts; the first two share a row
ROWS = (0, 0, 1, 2)


class Prompted(NamedTuple):
    """A model with a soft prompt and random parameters."""

    arch: Any
    model: Any
    params: dict[str, jax.Array]
    own: set[str]  # names of the base's parameters that train
    trained: list[str]  # stored paths

    @property
    def layers(self) -> int:
        """The number of layers of the side without an encoder."""
        return len(self.arch.spec.layers)


def prompted(directory, tune, seed=0, noise=0.3) -> Prompted:
    """`noise` is the standard deviation of what is added to each parameter that trains."""
    pretrained = open_pretrained(str(directory))
    arch = architecture(pretrained)
    cfg = Config(model=str(directory), task=None, data=None, tune=tune, lr=1.0, batch=1, steps=1)
    model, _, trained = build_model(cfg, arch, "cpu")
    views, _ = find_weights(model, pretrained, arch, "pretrained")
    params = place(model, views, shardings(model, make_mesh({}, jax.devices()[:1])), _float32(model), 0)
    rng = np.random.default_rng(seed)
    for path in trained:
        params[path] = params[path] + jnp.float32(noise) * rng.standard_normal(params[path].shape).astype(np.float32)
    own = {path for path in trained if not is_adapter(variables(model)[path])}
    return Prompted(arch, model, params, {name for path in own for name in names(model, path)}, trained)


def _float32(model):
    return dict.fromkeys(variables(model), jnp.float32)


def texts_of(arch, seed=0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    texts = [rng.integers(5, 100, length) for length in LENGTHS]
    for ids in texts if arch.spec.encoder else []:
        ids[-1] = END
    return texts


def batch_of(arch, virtual, texts) -> tuple[dict[str, np.ndarray], list[tuple[int, int, int]]]:
    """(packed and padded rows, (row, first column, length) of each text with its virtual tokens)."""
    head = arch.kind == "sequence-classification"
    examples = []
    for ids in texts:
        at = 0 if arch.spec.pool_token == "first" else len(ids) - 1
        example = {"tokens": ids.astype(np.int32)} | ({"at": np.array([at], np.int32)} if head else {})
        examples.append(virtual.in_example(example) if virtual else example)
    width = sum(len(example["tokens"]) for example in examples[:2]) + 1
    batch = {name: np.zeros((3, width), np.int32) for name in ("tokens", "segments", "positions")}
    at, used, places = np.zeros((3, 2), np.int32), [0, 0, 0], []
    for example, row in zip(examples, ROWS, strict=True):
        start, length = used[row], len(example["tokens"])
        where, segment = slice(start, start + length), 1 + batch["segments"][row].max()
        batch["tokens"][row, where], batch["segments"][row, where] = example["tokens"], segment
        batch["positions"][row, where] = np.arange(length)
        if head:
            at[row, segment - 1] = start + example["at"][0]
        places.append((row, start, length))
        used[row] += length
    batch |= _decoder() if arch.spec.encoder is not None else {}
    return batch | ({"at": at} if head else {}), places


def _decoder() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    batch = {"decoder_" + name: np.zeros((3, 9), np.int32) for name in ("tokens", "segments", "positions")}
    for number, (row, start, length) in enumerate(DECODED):
        where = slice(start, start + length)
        batch["decoder_tokens"][row, where] = rng.integers(5, 100, length)
        batch["decoder_segments"][row, where] = 2 if number == 1 else 1
        batch["decoder_positions"][row, where] = np.arange(length)
    return batch


DECODED = [(0, 0, 5), (0, 5, 4), (1, 0, 6), (2, 0, 9)]  # of the decoder's texts: row, first place, length


def peft_model(theirs, directory, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's own
        return peft.PeftModel.from_pretrained(theirs, directory, **options).eval()


def logits_of_prefix(theirs, texts) -> list[torch.Tensor]:
    """As `logits_of_peft`, from PEFT's keys and values in transformers' own model.

    PEFT looks for the argument `past_key_values` in the signature of classes with other heads than a causal language
    model's, and does not find it where transformers takes it under another name.
    """
    found = []
    for ids in texts:
        mask = torch.ones(1, theirs.active_peft_config.num_virtual_tokens + len(ids))
        given = {"attention_mask": mask, "past_key_values": theirs.get_prompt(1)}
        out = theirs.base_model(input_ids=torch.tensor(ids)[None].long(), **given)
        found.append(out.logits.reshape(-1, out.logits.shape[-1]))
    return found


def logits_of_peft(theirs, texts, batch) -> list[torch.Tensor]:
    """Logits (predictions, classes) of each text by itself."""
    found = []
    for number, ids in enumerate(texts):
        more = {}
        if "decoder_tokens" in batch:
            row, start, length = DECODED[number]
            more["decoder_input_ids"] = torch.tensor(batch["decoder_tokens"][row, start : start + length])[None].long()
        out = theirs(input_ids=torch.tensor(ids)[None].long(), **more)
        if "start_logits" in out:
            found.append(torch.stack([out.start_logits[0], out.end_logits[0]], -1))
        else:
            found.append(out.logits.reshape(-1, out.logits.shape[-1]))
    return found


def logits_of_texts(logits, arch, places) -> list[Any]:
    """The pieces of our logits that belong to the texts, in their order."""
    if arch.kind == "sequence-classification":
        return [logits[row, int(start > 0)][None] for row, start, _ in places]
    where = DECODED if arch.spec.encoder is not None else places
    return [logits[row, start : start + length] for row, start, length in where]


def encoder_values(theirs) -> dict[str, np.ndarray]:
    """Stored path -> value of each parameter of PEFT's prompt encoder."""
    state = {name: x.detach().numpy() for name, x in theirs.prompt_encoder["default"].state_dict().items()}
    values = {"table.embedding" if len(state) > 1 else "embedding": state["embedding.weight"]}
    for number, name in enumerate(sorted(name for name in state if name.startswith("mlp_head") and "weight" in name)):
        values[f"mlp.{number}.kernel"] = state[name].T
        values[f"mlp.{number}.bias"] = state[name.replace("weight", "bias")]
    sizes = {"inputs": "weight_ih", "recurrent": "weight_hh", "input_bias": "bias_ih", "recurrent_bias": "bias_hh"}
    for number in range(sum(name.startswith("lstm_head.bias_ih") for name in state) // 2):
        for ours, name in sizes.items():
            both = [state[f"lstm_head.{name}_l{number}{end}"].T for end in ("", "_reverse")]
            values[f"lstm.{number}.{ours}"] = np.stack(both)
    return {f"embed.tokens.virtual.source.{name}": value for name, value in values.items()}


def prefix_values(theirs, one: Prompted) -> dict[str, np.ndarray]:
    """Stored path -> value of each parameter of PEFT's prefix encoder."""
    state = {name: x.detach().numpy() for name, x in theirs.prompt_encoder["default"].state_dict().items()}
    last = state.get("transform.2.weight")
    rows = state["embedding.weight"] if last is None else last.T
    both = {"key": np.split(rows, 2 * one.layers, 1)[::2], "value": np.split(rows, 2 * one.layers, 1)[1::2]}
    values = {}
    if last is not None:
        pieces = np.split(state["transform.2.bias"], 2 * one.layers)
        both |= {"key_bias": pieces[::2], "value_bias": pieces[1::2]}
        values = {
            "prefix.embedding": state["embedding.weight"],
            "prefix.kernel": state["transform.0.weight"].T,
            "prefix.bias": state["transform.0.bias"],
        }
    by_name = {f"layers.{i}.attn.prefix.{key}": piece for key, rows in both.items() for i, piece in enumerate(rows)}
    for path in one.trained:
        if ".attn.prefix." in path:
            values[path] = np.stack([by_name[name] for name in names(one.model, path)])
    return values
