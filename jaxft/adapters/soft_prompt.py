"""The interface of soft prompts: tuning methods that put trained vectors before every text of a frozen model."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from jaxft.adapters.virtual_tokens import VirtualTokens
from jaxft.models.checkpoint.load import Views
from jaxft.models.checkpoint.pretrained import Architecture, Pretrained
from jaxft.models.heads import TEXT_LEVEL
from jaxft.models.layers.basic import Embed, Embedding, VirtualRows, param
from jaxft.models.layers.lookup import lookup
from jaxft.models.layers.precision import upcast
from jaxft.models.model import Model
from jaxft.models.spec import Spec
from jaxft.tune.base import Tunable

# The heads that PEFT runs with soft prompts, and its names of their tasks.
TASK_TYPES = {
    "sequence-classification": "SEQ_CLS",
    "token-classification": "TOKEN_CLS",
    "question-answering": "QUESTION_ANS",
    "causal-lm": "CAUSAL_LM",
    "seq2seq-lm": "SEQ_2_SEQ_LM",
}


class SoftPrompt:
    """A `@config` class: a tuning method (tune/base.py) whose vectors train, with the head of a task.

    A soft prompt is part of the input, so it cannot be merged into the weights.
    """

    __slots__ = ()

    num_virtual_tokens: int  # positions that the prompt takes before every text

    @property
    def row_tokens(self) -> int:
        """Tokens that the prompt takes in a row of a batch, for every text."""
        return self.num_virtual_tokens

    @property
    def left_out(self) -> str:
        """What trains and is not in PEFT's files, as words; "" if they hold everything."""
        return ""

    def select(self, model: Tunable) -> set[str]:
        """See tune/base.py."""
        return {name for name in model.roles if name.startswith("head.")} if model.trains_head else set()

    def adapters(self, model: Tunable) -> dict[str, object]:
        """None: a linear map stays as it is."""
        return {}

    def refusals(self, arch: Architecture, pretrained: Pretrained) -> list[str]:
        """Why a model cannot be tuned so."""
        return token_refusals(arch)

    def attach(self, model: Model) -> None:
        """Puts the prompt, with abstract parameters, on a new model."""
        raise NotImplementedError

    def placed(self, arch: Architecture) -> VirtualTokens | None:
        """The tokens that are put before every text; None if no token stands for the prompt."""
        reads_first = arch.kind in TEXT_LEVEL and arch.spec.pool_token == "first"
        return VirtualTokens(self.num_virtual_tokens, arch.spec.input_side.embed.vocab, reads_first)

    def initial(self, model: Model, views: Views, tokenizer: Any, seed: int) -> Views:
        """Parameter name -> initial value, float32, where the parameter's own initialiser is not enough.

        `views` are the values of the checkpoint (models/checkpoint/load.py); {} for a model without one.
        """
        raise NotImplementedError

    def vectors(self, model: Model) -> jax.Array:
        """The prompt of a model with values: float32 (virtual tokens, ...), as PEFT stores it."""
        return prompt_vectors(model)

    def from_vectors(self, model: Model, vectors: np.ndarray) -> Views | None:
        """Parameter name -> value, from a stored prompt; None if it does not fit the model. Of methods whose own
        parameters are what PEFT stores."""
        raise NotImplementedError

    def peft_config(self, arch: Architecture) -> dict[str, Any]:
        """The fields of adapter_config.json that are the method's own, `peft_type` among them."""
        raise NotImplementedError


class PromptVectors(nnx.Module):
    """The vectors of a prompt, however they are made."""

    def __call__(self) -> jax.Array:
        """(virtual tokens, width), float32."""
        raise NotImplementedError


class PromptTable(PromptVectors):
    """A trained table."""

    def __init__(self, count: int, width: int):
        self.embedding = param((count, width), (None, "embed"), "embedding", origin="adapter")

    def __call__(self) -> jax.Array:
        return upcast(self.embedding[...])


class PromptRows(VirtualRows):
    """Virtual tokens: the ids from `first_id` on are the vectors of `source`."""

    def __init__(self, first_id: int, factor: float, source: PromptVectors):
        """`factor` multiplies the vectors."""
        self.first_id, self.factor, self.source = first_id, factor, source

    def __call__(self, numbers: jax.Array, table: Embedding, dtype: DTypeLike) -> jax.Array:
        virtual = numbers >= self.first_id
        rows = self.source() * self.factor
        own = lookup(rows, jnp.where(virtual, numbers - self.first_id, 0), (None, table.axes[1]), dtype)
        return jnp.where(virtual[..., None], own, table.plain(jnp.where(virtual, 0, numbers), dtype))


def input_table(model: Model) -> tuple[str, Embedding]:
    """(path, the token embedding of the side that reads the texts)."""
    if model.encoder is not None and model.encoder.embed.tokens is not None:
        return "encoder.embed.tokens", model.encoder.embed.tokens
    return "embed.tokens", model.embed.tokens


def attach_rows(model: Model, source: PromptVectors) -> None:
    """Adds the vectors of `source` to the token embedding that reads the texts."""
    _, table = input_table(model)
    embed = model.spec.input_side.embed
    assert isinstance(embed, Embed) and embed.prompt_scale is not None
    table.virtual = PromptRows(embed.vocab, embed.prompt_scale / embed.scale, source)


def prompt_vectors(model: Model) -> jax.Array:
    """The vectors that `attach_rows` added, with values."""
    _, table = input_table(model)
    return jax.jit(lambda source: source())(table.virtual.source)


def input_width(spec: Spec) -> int:
    """The width of the vectors that stand for tokens."""
    embed = spec.input_side.embed
    inner = embed.project.inputs if isinstance(embed, Embed) and embed.project else None
    return inner or spec.input_side.width


def token_refusals(arch: Architecture) -> list[str]:
    """Why vectors cannot stand for tokens in a model: where PEFT with transformers cannot do it, or does another
    thing."""
    if arch.kind not in TASK_TYPES:
        return [f"soft prompts are for the heads {', '.join(TASK_TYPES)}, not for {arch.kind}: choose LoRA or Full"]
    if arch.spec.encoder is not None and arch.kind != "seq2seq-lm":
        return [
            f"soft prompts are for the head seq2seq-lm of an encoder-decoder model, not for {arch.kind}, which "
            "transformers computes from token ids only: choose LoRA or Full"
        ]
    embed = arch.spec.input_side.embed
    if not isinstance(embed, Embed) or embed.prompt_scale is None:
        return [
            "soft prompts are not for this model: transformers scales the vectors of token ids only, so PEFT would "
            "compute something else from the same prompt. Choose LoRA or Full"
        ]
    return []
