"""Models with random adapters, and their comparison with PEFT in PyTorch."""

import contextlib
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import peft
import torch
from batches import inputs_of, of_texts
from safetensors.numpy import save_file
from zoo import expected_of

from jaxft.adapters.adapted import trained_adapter
from jaxft.adapters.peft_files import CONFIG, WEIGHTS, config_json
from jaxft.adapters.start import start_values
from jaxft.config import Config
from jaxft.models.checkpoint.load import find_weights, place
from jaxft.models.checkpoint.pretrained import architecture, open_pretrained
from jaxft.models.params import bind, names, shardings, variables
from jaxft.optim.adamw import AdamW
from jaxft.optim.base import lr_multipliers
from jaxft.optim.base import optimizer as optimizer_of
from jaxft.parallel.mesh import make_mesh
from jaxft.training.setup import build_model


def adapted(directory, tune, seed=0, perturbed=True):
    """(architecture, adapted model, model without adapters, random parameters, names of the own ones that train)."""
    pretrained = open_pretrained(str(directory))
    arch = architecture(pretrained)
    cfg = Config(model=str(directory), task=None, data=None, tune=tune, lr=1.0, batch=1, steps=1)
    model, base, trained = build_model(cfg, arch, "cpu")
    views, _ = find_weights(model, pretrained, arch, "pretrained")
    views |= start_values(model, views, 0)
    mesh = make_mesh({}, jax.devices()[:1])
    params = place(model, views, shardings(model, mesh), dict.fromkeys(variables(model), jnp.float32), 0)
    rng = np.random.default_rng(seed)
    for path in trained if perturbed else ():
        params[path] = params[path] + jnp.float32(0.1) * rng.standard_normal(params[path].shape).astype(np.float32)
    return arch, model, base, params, {name for path in trained for name in names(model, path)}


def write(directory, files):
    directory.mkdir()
    (directory / CONFIG).write_text(config_json(files))
    save_file(files.tensors, directory / WEIGHTS[0], {"format": "pt"})
    return str(directory)


def by_peft(theirs, directory):
    """PEFT's model of transformers' model, with an adapter that is in a directory."""
    with peft_warnings():
        return peft.PeftModel.from_pretrained(theirs, directory, is_trainable=True).eval()


@contextlib.contextmanager
def peft_warnings():
    """PEFT calls what transformers deprecates."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


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


def steps(arch, model, params, own, theirs, optimizer, lr, count=20):
    """(losses of jaxft, losses of PyTorch) of `count` AdamW steps without weight decay, on equal batches."""
    found = variables(model)
    trained = {p: params.pop(p) for p, one in found.items() if trained_adapter(one) or names(model, p)[0] in own}
    inputs = inputs_of(arch.spec, arch.kind)
    ours, wanted = _losses(arch, model, params, inputs), []
    tx = optimizer_of(AdamW(decay=0.0), lambda step: lr, model, list(trained), lr_multipliers(model, (), None))

    @jax.jit
    def step(trained, state):
        loss, gradient = jax.value_and_grad(ours)(trained)
        updates, state = tx.update(gradient, state, trained)
        return optax.apply_updates(trained, updates), state, loss

    state, losses = tx.init(trained), []
    for _ in range(count):
        trained, state, loss = step(trained, state)
        losses.append(float(loss))
        logits = [one[1] for one in expected_of(theirs, arch.spec.input_side.embed.argument, inputs)]
        rows = torch.cat([one.reshape(-1, one.shape[-1]) for one in logits])
        loss = torch.nn.functional.cross_entropy(rows, torch.tensor(_classes(rows)))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        wanted.append(loss.item())
    return losses, wanted


def _losses(arch, model, params, inputs):
    """The loss of trained parameters: cross-entropy of some class at every position that is read."""

    def loss_of(trained):
        logits = bind(model, {**trained, **params})(inputs.batch).logits
        rows = [one.reshape(-1, one.shape[-1]) for one in of_texts(logits, inputs.reads, inputs.places)]
        rows = jnp.concatenate(rows)
        logs = jax.nn.log_softmax(rows)
        return -jnp.mean(logs[np.arange(len(rows)), _classes(rows)])

    return loss_of


def _classes(rows):
    return np.arange(len(rows)) * 7 % rows.shape[-1]


def outputs_of(model, params):
    program = jax.jit(lambda params, batch: (lambda out: (out.hidden, out.logits))(bind(model, params)(batch)))
    return lambda batch: jax.device_get(program(params, batch))
