"""The small modules that families are made of: linear maps, norms, embeddings, MLPs.

Modules are abstract: a parameter is a shape, the logical names of its axes, a role and an initialiser. `bind`
(models/params.py) puts values in, from a checkpoint or from `initial`. Letters in names: b batch, t length, d width.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from jaxft.models.batch import Batch
from jaxft.models.layers.activations import ACTIVATIONS, known_activation
from jaxft.models.layers.context import Carry, Context
from jaxft.models.layers.dropout import dropout
from jaxft.models.layers.lookup import lookup
from jaxft.models.layers.precision import accumulator, upcast
from jaxft.models.part import Part
from jaxft.parallel.mesh import shard

Role = Literal["kernel", "embedding", "bias", "norm", "other"]
Origin = Literal["checkpoint", "adapter", "quantized"]


def param(
    shape: tuple[int, ...],
    axes: tuple[str | None, ...],
    role: Role,
    init: str | Callable = "normal",
    fixed: bool = False,
    origin: Origin = "checkpoint",
    lr_factor: float = 1.0,
) -> nnx.Param:
    """An abstract float32 parameter; `axes` are logical names (parallel/mesh.py).

    `role` is what optimizers and tuning methods go by: "kernel" is the matrix of a linear map, or several, "embedding"
    a table of rows (weight decay applies to both), "norm" the scale of a norm, "bias" whatever is added, "other" the
    rest. `init` is "normal", "zeros", "ones", "kaiming_uniform" (of a matrix (inputs, outputs), as in
    torch.nn.Linear), or a function from the shape to an array. A fixed parameter never trains: it keeps its initial
    value, or the checkpoint's. `origin` says where its values come from: "adapter" parameters are in no checkpoint of
    a model, and train unless they are fixed; "quantized" ones are made of a kernel of the checkpoint
    (jaxft/quantization). `lr_factor` multiplies the learning rate.
    """
    value = jax.ShapeDtypeStruct(shape, jnp.float32)
    return nnx.Param(value, axes=axes, role=role, init=init, fixed=fixed, origin=origin, lr_factor=lr_factor)


def remat(function: Callable, prevent_cse: bool = False) -> Callable:
    """The function, with only its arguments stored for the backward pass: cheap steps are recomputed.

    A matrix product at its end is not recomputed, since no gradient needs the product's own result. The loop over
    layers separates the two passes; `prevent_cse` does so without it, where a program that computes once and stores
    would need too much memory.
    """
    return jax.checkpoint(function, prevent_cse=prevent_cse)


def masked_mean(
    x_btd: jax.Array, segments_bt: jax.Array, at_bk: jax.Array, counts_bt: jax.Array | None = None
) -> jax.Array:
    """The mean over the text that each position `at` is in: float32 (batch, predictions, width).

    `counts` (batch, length), bool: which positions count; None: all.
    """
    mine = jnp.take_along_axis(segments_bt, at_bk, 1)
    inside = segments_bt[:, None, :] == mine[:, :, None]
    inside = (inside if counts_bt is None else inside & counts_bt[:, None, :]).astype(x_btd.dtype)
    total = jnp.einsum("bkt,btd->bkd", inside, x_btd, preferred_element_type=accumulator(x_btd))
    return total / jnp.sum(inside, -1, keepdims=True, dtype=total.dtype)


def fold_key(key: jax.Array | None, number: int) -> jax.Array | None:
    """The `number`-th key under `key`; None stays None."""
    return None if key is None else jax.random.fold_in(key, number)


class Adapter(nnx.Module):
    """A trained change of a frozen linear map (jaxft/adapters)."""

    part: Any  # its description (jaxft/adapters/base.py)

    def __call__(self, x: jax.Array, linear: "Linear", key: jax.Array | None) -> jax.Array:
        """The adapted map's (..., outputs) of x (..., inputs); `key` None: without dropout."""
        raise NotImplementedError

    def merged(self, kernel: jax.Array, bias: jax.Array | None) -> tuple[jax.Array, jax.Array | None]:
        """The kernel (inputs, outputs) and the bias (outputs) of a plain linear map that gives the same results, from
        those of the frozen one; float32."""
        raise NotImplementedError


class QuantizedKernel(nnx.Module):
    """A kernel of a frozen linear map, held in fewer bits (jaxft/quantization)."""

    def matrix(self, dtype: DTypeLike) -> jax.Array:
        """The kernel (inputs, outputs), dequantised."""
        raise NotImplementedError


class Linear(nnx.Module):
    """y = x W + b, with W cast to the dtype of x: parameters may be float32 masters while activations are bfloat16."""

    adaptable: ClassVar[bool] = True  # whether tuning methods may put an adapter here

    def __init__(self, inputs: int, outputs: int, axes: tuple[str | None, str | None], bias: bool = True):
        self.kernel: Any = param((inputs, outputs), axes, "kernel")  # or a QuantizedKernel
        self.bias = param((outputs,), (axes[1],), "bias", "zeros") if bias else nnx.data(None)
        self.adapter: Any = nnx.data(None)

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """(..., outputs); `key` is for the dropout of an adapter, None: none."""
        return self.plain(x) if self.adapter is None else self.adapter(x, self, key)

    def plain(self, x: jax.Array) -> jax.Array:
        """The result without an adapter."""
        y = self.product(x)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)

    def product(self, x: jax.Array) -> jax.Array:
        """x W."""
        return remat(self._product, prevent_cse=True)(x) if self.is_quantized else self._product(x)

    def matrix(self, dtype: DTypeLike) -> jax.Array:
        """The kernel (inputs, outputs), dequantised if it is held in fewer bits.

        In a function that is differentiated, use it inside `jax.checkpoint`, as `product` does: else the backward pass
        keeps the dequantised kernels of all layers.
        """
        return self.kernel.matrix(dtype) if self.is_quantized else self.kernel[...].astype(dtype)

    @property
    def is_quantized(self) -> bool:
        """Whether the kernel is held in fewer bits."""
        return isinstance(self.kernel, QuantizedKernel)

    def _product(self, x: jax.Array) -> jax.Array:
        return x @ self.matrix(x.dtype)


@dataclass(frozen=True)
class LayerNorm:
    """Layer normalisation (Ba et al. 2016, eq. 4), computed in float32."""

    eps: float
    bias: bool = True
    scale: bool = True
    scale_offset: ClassVar[float] = 0.0

    def build(self, width: int, heads: int | None = None) -> "NormLayer":
        return NormLayer(self, width, heads)

    def normalise(self, x: jax.Array) -> jax.Array:
        centred = x - jnp.mean(x, -1, keepdims=True)
        return centred * jax.lax.rsqrt(jnp.mean(centred * centred, -1, keepdims=True) + self.eps)

    def scaled(self, x: jax.Array, scale: jax.Array) -> jax.Array:
        return x * scale


@dataclass(frozen=True)
class RMSNorm:
    """Root mean square normalisation (Zhang and Sennrich 2019, eq. 4), computed in float32.

    `scale_offset` is added to the stored scale (1 in Gemma).
    """

    eps: float
    scale_offset: float = 0.0
    bias: bool = False
    scale: bool = True

    def build(self, width: int, heads: int | None = None) -> "NormLayer":
        return NormLayer(self, width, heads)

    def normalise(self, x: jax.Array) -> jax.Array:
        return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + self.eps)

    def scaled(self, x: jax.Array, scale: jax.Array) -> jax.Array:
        return x * (self.scale_offset + scale)


class NormLayer(nnx.Module):
    """A norm with its learned scale and bias, computed in float32; the result has the input's dtype."""

    def __init__(self, norm: LayerNorm | RMSNorm, width: int, heads: int | None = None):
        """With `heads` the input is (..., heads, width), and each head has a scale of its own."""
        self.norm, new = norm, "zeros" if norm.scale_offset else "ones"
        shape, axes = ((width,), (None,)) if heads is None else ((heads, width), ("heads", None))
        self.scale = param(shape, axes, "norm", new) if norm.scale else nnx.data(None)
        self.bias = param(shape, axes, "bias", "zeros") if norm.bias else nnx.data(None)

    def __call__(self, x: jax.Array) -> jax.Array:
        def normed(x):
            y = self.norm.normalise(upcast(x))
            if self.scale is not None:
                y = self.norm.scaled(y, upcast(self.scale[...]))
            if self.bias is not None:
                y = y + upcast(self.bias[...])
            return y.astype(x.dtype)

        return remat(normed)(x)


@dataclass(frozen=True)
class Dense:
    """The two-matrix MLP: down(act(up(x)))."""

    hidden: int
    act: str
    bias: bool = True
    dropout: float | None = None  # on the input of `down`; None: none, whatever a run's rate

    def build(self, width: int) -> "DenseLayer":
        return DenseLayer(self, width)


class DenseLayer(nnx.Module):
    def __init__(self, part: Dense, width: int):
        self.act, self.rate = known_activation(part.act), part.dropout or 0.0
        self.up = Linear(width, part.hidden, ("embed", "mlp"), part.bias)
        self.down = Linear(part.hidden, width, ("mlp", "embed"), part.bias)

    def __call__(self, x_btd: jax.Array, context: Context, key: jax.Array | None) -> tuple[jax.Array, Carry]:
        def rest(up):
            y = dropout(shard(ACTIVATIONS[self.act](up), "batch", "length", "mlp"), self.rate, key)
            return self.down(y, fold_key(key, 1))

        return remat(rest)(self.up(x_btd, fold_key(key, 2))), Carry()


@dataclass(frozen=True)
class Gated:
    """The gated MLP (Shazeer 2020, "GLU variants", section 2): down(act(gate(x)) * up(x))."""

    hidden: int
    act: str
    bias: bool = False
    dropout: float | None = None  # on the input of `down`; None: none, whatever a run's rate

    def build(self, width: int) -> "GatedLayer":
        return GatedLayer(self, width)


class GatedLayer(nnx.Module):
    def __init__(self, part: Gated, width: int):
        self.act, self.rate = known_activation(part.act), part.dropout or 0.0
        self.gate = Linear(width, part.hidden, ("embed", "mlp"), part.bias)
        self.up = Linear(width, part.hidden, ("embed", "mlp"), part.bias)
        self.down = Linear(part.hidden, width, ("mlp", "embed"), part.bias)

    def __call__(self, x_btd: jax.Array, context: Context, key: jax.Array | None) -> tuple[jax.Array, Carry]:
        def rest(gate, up):
            y = shard(ACTIVATIONS[self.act](gate) * up, "batch", "length", "mlp")
            return self.down(dropout(y, self.rate, key), fold_key(key, 1))

        return remat(rest)(self.gate(x_btd, fold_key(key, 2)), self.up(x_btd, fold_key(key, 3))), Carry()


class VirtualRows(nnx.Module):
    """Trained vectors with the numbers above those of a frozen table (jaxft/adapters)."""

    def __call__(self, numbers: jax.Array, table: "Embedding", dtype: DTypeLike) -> jax.Array:
        """(*numbers.shape, width) in `dtype`: from the table or, for the numbers that it does not have, from here."""
        raise NotImplementedError


class Embedding(nnx.Module):
    """A table of vectors, looked up by number."""

    def __init__(self, rows: int, width: int, axes: tuple[str | None, str | None], **options):
        """`options` are those of `param`."""
        self.axes = axes
        self.embedding = param((rows, width), axes, "embedding", **options)
        self.virtual: Any = nnx.data(None)

    def __call__(self, numbers: jax.Array, dtype: DTypeLike) -> jax.Array:
        """(*numbers.shape, width) in `dtype`."""
        return self.plain(numbers, dtype) if self.virtual is None else self.virtual(numbers, self, dtype)

    def plain(self, numbers: jax.Array, dtype: DTypeLike) -> jax.Array:
        """The result for numbers of the table only."""
        return lookup(self.embedding[...], numbers, self.axes, dtype)


@dataclass(frozen=True)
class Projection:
    """A linear map from embeddings of another width than the model's."""

    inputs: int
    bias: bool = True
    first: bool = False  # only the token embedding has that width; the others are added after the map


@dataclass(frozen=True)
class Embed:
    """The sum of token embeddings and, if the family has them, learned positions and token types."""

    vocab: int
    positions: int | None = None  # rows of a learned table
    types: int | None = None
    norm: LayerNorm | RMSNorm | None = None
    dropout: float = 0.0
    offset: int = 0  # the row of position 0
    scale: float = 1.0
    # What transformers multiplies vectors by that are given in place of token ids; None: it scales those of ids only.
    prompt_scale: float | None = 1.0
    project: Projection | None = None  # of the sum, or of the token embeddings
    fill: Callable | None = None  # shape -> the table of positions, if that does not train
    shared_embedding: bool = False  # the token embedding is the other backbone's
    key: ClassVar[str] = "tokens"
    argument: ClassVar[str] = "input_ids"
    shape: ClassVar[tuple[int, ...]] = ()
    length: ClassVar[None] = None

    def build(self, width: int) -> "EmbedLayer":
        return EmbedLayer(self, width)


class EmbedLayer(nnx.Module):
    def __init__(self, part: Embed, width: int):
        self.part, inner = part, part.project.inputs if part.project else width
        self.tokens: Any = nnx.data(None) if part.shared_embedding else Embedding(part.vocab, inner, ("vocab", "embed"))
        fixed = {"init": part.fill, "fixed": True} if part.fill else {}
        self.projects_tokens = part.project is not None and part.project.first
        added = width if self.projects_tokens else inner
        self.positions = (
            Embedding(part.positions, added, (None, "embed"), **fixed) if part.positions else nnx.data(None)
        )
        self.types = Embedding(part.types, added, (None, "embed")) if part.types else nnx.data(None)
        self.norm = part.norm.build(added) if part.norm else nnx.data(None)
        self.project: Any = Linear(inner, width, (None, "embed"), part.project.bias) if part.project else nnx.data(None)

    def __call__(
        self, batch: Batch, dtype: DTypeLike, key: jax.Array | None, table: Embedding | None = None
    ) -> jax.Array:
        """(batch, length, width); `table` is the token embedding if it is the other backbone's."""
        x = (table or self.tokens)(batch["tokens"], dtype) * jnp.asarray(self.part.scale, dtype)
        if self.projects_tokens:
            x = self.project(shard(x, "batch", "length", None), fold_key(key, 1))
        if self.types is not None:
            x = x + self.types(batch.get("types", jnp.zeros_like(batch["tokens"])), dtype)
        if self.positions is not None:
            x = x + self.positions(batch["positions"] + self.part.offset, dtype)
        x = shard(x, "batch", "length", None)  # once for the sum of all tables
        if self.norm is not None:
            x = self.norm(x)
        x = dropout(x, self.part.dropout, key)
        if self.project is not None and not self.projects_tokens:
            x = self.project(x, fold_key(key, 1))
        return shard(x, "batch", "length", None)


@dataclass(frozen=True)
class Unused:
    """Weights kept only so that they can be exported again; neither used nor trained."""

    part: Part

    def build(self, width: int) -> Any:
        module = self.part.build(width)
        for variable in jax.tree.leaves(module, is_leaf=lambda node: isinstance(node, nnx.Variable)):
            variable.set_metadata("fixed", True)
        return module
