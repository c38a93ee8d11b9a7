"""Quantised models: ours with the weights of a directory, and transformers' with bitsandbytes' linear maps."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import torch
import transformers

from jaxft.config import Config
from jaxft.models.checkpoint.load import find_weights, place
from jaxft.models.checkpoint.pretrained import architecture, open_pretrained
from jaxft.models.params import names, shardings, variables
from jaxft.parallel.mesh import make_mesh
from jaxft.quantization.quantized import place_quantized, quantized
from jaxft.training.setup import build_model

# bitsandbytes sums a matrix's scales in an order that depends on the number of threads.
THREADS = 1


def quantised(directory, tune, quantization, dtype="float32", seed=0):
    """(architecture, quantised model, the same in floats, its parameters, names of the own ones that train); adapters
    are random."""
    pretrained = open_pretrained(str(directory))
    arch = architecture(pretrained)
    cfg = Config(model=str(directory), task=None, data=None, tune=tune, lr=1.0, batch=1, steps=1, dtype=dtype)
    adapted, base, trained = build_model(cfg, arch, "cpu")
    own = {name for path in trained for name in names(adapted, path)}
    model = quantized(adapted, arch, quantization, own)
    views, _ = find_weights(base, pretrained, arch, "pretrained")
    places = shardings(model, make_mesh({}, jax.devices()[:1]))
    params = place(model, views, places, dict.fromkeys(variables(model), jnp.dtype(dtype)), 0)
    params |= place_quantized(model, base, views, places, quantization.part(), 0)
    rng = np.random.default_rng(seed)
    for path in trained:
        params[path] = jnp.asarray(0.1 * rng.standard_normal(params[path].shape), jnp.float32)
    return arch, model, adapted, params, own


def theirs_of(directory, **options):
    """transformers' causal language model with bitsandbytes' linear maps, in float32 on the CPU."""
    how = transformers.BitsAndBytesConfig(**options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # bitsandbytes' and transformers' own
        return transformers.AutoModelForCausalLM.from_pretrained(
            directory, quantization_config=how, device_map="cpu", dtype=torch.float32, attn_implementation="eager"
        )
