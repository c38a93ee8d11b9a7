"""Models with random adapters, and their comparison with PEFT in PyTorch."""

import jax
import jax.numpy as jnp
import numpy as np
import torch
from batches import inputs_of, of_texts
from safetensors.numpy import save_file
from zoo import expected_of

from jaxft.adapters.peft_files import CONFIG, WEIGHTS, config_json
from jaxft.config import Config
from jaxft.models.checkpoint.load import find_weights, place
from jaxft.models.checkpoint.pretrained import architecture, open_pretrained
from jaxft.models.params import bind, names, shardings, variables
from jaxft.parallel.mesh import make_mesh
from jaxft.training.setup import build_model


def adapted(directory, tune, seed=0):
    """(architecture, adapted model, model without adapters, random parameters, names of the own ones that train)."""
    pretrained = open_pretrained(str(directory))
    arch = architecture(pretrained)
    cfg = Config(model=str(directory), task=None, data=None, tune=tune, lr=1.0, batch=1, steps=1)
    model, base, trained = build_model(cfg, arch, "cpu")
    views, _ = find_weights(model, pretrained, arch, "pretrained")
    mesh = make_mesh({}, jax.devices()[:1])
    params = place(model, views, shardings(model, mesh), dict.fromkeys(variables(model), jnp.float32), 0)
    rng = np.random.default_rng(seed)
    for path in trained:
        params[path] = params[path] + jnp.float32(0.1) * rng.standard_normal(params[path].shape).astype(np.float32)
    return arch, model, base, params, {name for path in trained for name in names(model, path)}


def write(directory, files):
    directory.mkdir()
    (directory / CONFIG).write_text(config_json(files))
    save_file(files.tensors, directory / WEIGHTS[0], {"format": "pt"})
    return str(directory)


def check(theirs, arch, outputs, what):
    """Hidden states and logits within 1e-5 of the largest."""
    inputs = inputs_of(arch.spec, arch.kind)
    hidden, logits = outputs(inputs.batch)
    with torch.no_grad():
        expected = expected_of(theirs, arch.spec.input_side.embed.argument, inputs)
    pairs = list(zip(of_texts(hidden, None, inputs.places), (one[0] for one in expected), strict=True))
    pairs += zip(of_texts(logits, inputs.reads, inputs.places), (one[1] for one in expected), strict=True)
    for found, wanted in pairs:
        wanted = wanted.numpy()
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-5 * max(1.0, np.abs(wanted).max()), err_msg=what)


def outputs_of(model, params):
    program = jax.jit(lambda params, batch: (lambda out: (out.hidden, out.logits))(bind(model, params)(batch)))
    return lambda batch: jax.device_get(program(params, batch))
