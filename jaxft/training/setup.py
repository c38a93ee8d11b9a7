"""From a configuration to the model, task, mesh and data of a run. No other module imports every package."""

import json
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.adapters.adapted import adapted_weights, attach, is_adapter, merged_params, trained_adapter, tunable
from jaxft.adapters.base import PeftMethod
from jaxft.adapters.peft_files import read_adapter, with_labels
from jaxft.adapters.soft_prompt import SoftPrompt
from jaxft.adapters.start import continued, method_problems, start_values
from jaxft.adapters.virtual_tokens import VirtualTokens
from jaxft.config import Config
from jaxft.config.component import to_json
from jaxft.data.data_report import DataReport
from jaxft.data.encoded import Arrays, Encoded, encode_all
from jaxft.data.example import Example
from jaxft.data.source import Rows
from jaxft.metrics import Mean, objective
from jaxft.metrics.units import EvalUnits
from jaxft.models.batch import Batch
from jaxft.models.checkpoint.encoder_only import backbone_rules
from jaxft.models.checkpoint.load import LoadReport, find_weights, place
from jaxft.models.checkpoint.pretrained import Architecture, Pretrained, architecture, open_pretrained, tokenizer_of
from jaxft.models.checkpoint.sentence_transformers import read_embedding, with_lower_case
from jaxft.models.checkpoint.tokenizer import unknown_counts
from jaxft.models.input_ranges import id_problems
from jaxft.models.model import Model, Outputs
from jaxft.models.params import Params, bind, frozen_dtype, names, shape, shardings, variables
from jaxft.parallel.mesh import place_rows
from jaxft.problems import UserError, listed, raise_problems, suggest, truncated_repr
from jaxft.quantization.quantized import dequantized, place_quantized, quantized, quantized_kernels, requantized
from jaxft.tasks.base import EncodingContext, Task
from jaxft.training.layout import mesh_for
from jaxft.training.own_functions import with_functions
from jaxft.training.shared import Shared, identity
from jaxft.training.sources import open_sources
from jaxft.tune.learning_rate import peak_rate

log = logging.getLogger("jaxft")

T = TypeVar("T")
# Fields of a configuration that no compiled function of model and task depends on: the data, and numbers that are
# arguments or come from outside. `training/compiled.py` adds what the update depends on.
NOT_COMPILED = frozenset(
    "data evals batching batch steps epochs max_unknown lr schedule optim clip lr_multipliers layer_decay seed init "
    "save early_stopping eval_on_start log_every nonfinite export_dtype wandb adapter".split()
)


@dataclass
class Setup:
    """A model and its task on a mesh. `trained` are stored paths (models/params.py); all others are frozen.

    `base` is the model without adapters, with the same stored paths; the model itself if there are none. `adapted` is
    the model in floats; the model itself if no kernel is quantised. `virtual` are the tokens that a soft prompt puts
    before every text.
    """

    cfg: Config
    mesh: jax.sharding.Mesh
    pretrained: Pretrained
    arch: Architecture
    model: Model
    base: Model
    adapted: Model
    task: Task
    setting: EncodingContext
    trained: list[str]
    virtual: VirtualTokens | None = None
    sources: dict[str, Rows] = field(default_factory=dict)  # opened data by name, "train" among them
    shared: Shared = field(default_factory=Shared)

    @property
    def replicated(self) -> jax.sharding.NamedSharding:
        """The placement of an array that every device holds whole."""
        return jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec())

    def encode(self, split: str) -> Encoded:
        """All examples of a split. Drops its rows from `sources`, unless `Task.evaluate_predictions` needs them."""
        keeps = split != "train" and self.task.evaluates_texts
        rows = self.sources[split] if keeps else self.sources.pop(split)
        source = identity(self.cfg.data if split == "train" else self.cfg.evals[split].data)
        fields = (self.cfg.model, self.cfg.add_tokens, self.setting.max_len, self.cfg.max_unknown)
        key = source and ("encoded", split, source, identity(self.cfg.task), fields)
        return self.shared.get(key, lambda: self._encode(split, rows))

    def _encode(self, split: str, rows: Rows) -> Encoded:
        rows_read = rows.only(self.task.columns())
        encoded = encode_all(rows_read, partial(self.task.encode, setting=self.setting), name=rows_read.name)
        raise_problems(f"{split}: {problem}" for problem in id_problems(encoded.flat, self.arch.spec))
        counts = unknown_counts(encoded.flat["tokens"], self.setting.tokenizer)
        encoded.report = replace(encoded.report, unknown=counts["unknown"], ordinary=counts["ordinary"])
        problems = self.task.check_data(encoded.report) + unknown_problems(encoded.report, self.cfg.max_unknown)
        raise_problems(f"{split}: {problem}" for problem in problems)
        return encoded

    def program(self, name: str, options: Any, make: Callable[[], T]) -> T:
        """The function `name` of this model and task, as `make` compiles it; runs that share it have equal `options`,
        JSON values, and equal fields of the configuration but those in NOT_COMPILED."""
        cfg = {key: value for key, value in to_json(self.cfg).items() if key not in NOT_COMPILED}
        own = json.dumps([cfg, self.trained, self.model is self.base, options], sort_keys=True)
        return self.shared.get((name, self.mesh, own), make)

    def evaluate_predictions(self, split: str, encoded: Encoded) -> Callable[[dict[str, np.ndarray]], EvalUnits] | None:
        """`Task.evaluate_predictions` of a set, as a function of the outputs; None for a task without it."""
        if not self.task.evaluates_texts:
            return None
        return partial(self.task.evaluate_predictions, encoded=encoded, rows=self.sources[split])

    def random_transform(self, example: Example, rng: np.random.Generator) -> Example:
        """`Task.random_transform`, with the virtual tokens before the result.

        Raises UserError for ids beyond the model's embedding tables.
        """
        transformed = self.task.random_transform(example, rng, self.setting)
        arrays = {key: values for key, values in transformed.items() if isinstance(values, np.ndarray)}
        changed = {key: values for key, values in arrays.items() if values is not example.get(key)}
        raise_problems(id_problems(changed, self.arch.spec))
        return (
            transformed if self.virtual is None else cast(Example, self.virtual.in_example(cast(Arrays, transformed)))
        )

    def transformed_length(self, length: int) -> int:
        """Tokens that an example of `length` tokens has after `random_transform`."""
        return self.task.transformed_length(length) + (self.virtual.count if self.virtual else 0)

    def forward(self, params: Params, batch: Batch, key: jax.Array | None) -> Outputs:
        """The model's outputs; `key` None: without dropout."""
        return bind(self.model, params)(batch, key)

    def loss(self, params: Params, batch: Batch, key: jax.Array | None) -> dict[str, Mean]:
        """The task's loss, and the load balancing loss of the experts, if the model has any."""
        out = self.forward(params, batch, key)
        sums = self.task.loss(out, batch)
        if out.aux_loss is None:
            return sums
        total, count = objective(sums)
        balance = Mean(out.aux_loss * count, count)
        return sums | {"weighted_loss": Mean(total + balance.total, count), "balance": balance}

    def put(self, batch: Mapping[str, np.ndarray]) -> Batch:
        """A host's rows of a batch, on its devices."""
        return jax.tree.map(lambda values: place_rows(values, self.mesh), dict(batch))

    def load(self) -> tuple[Params, Params, LoadReport]:
        """(trained, frozen, report). Trained parameters are float32, frozen ones have the compute dtype, or are
        quantised."""
        views, report = find_weights(self.base, self.pretrained, self.arch, self.cfg.init, self.cfg.seed)
        views |= start_values(self.adapted, views, self.cfg.seed, self._held)
        if self.cfg.adapter is not None and isinstance(self.cfg.tune, PeftMethod):
            files = read_adapter(self.cfg.adapter)
            views |= continued(self.adapted, self.arch, views, files, self.cfg.tune, self.cfg.adapter)
            report.new = sorted(set(report.new) - views.keys())
        new = {name for name in report.new if name not in self._trained_names()}
        raise_problems(
            [f"{name} is newly initialised but does not train: add it to config.tune" for name in sorted(new)]
            if self.cfg.init != "random"
            else []
        )
        if isinstance(self.cfg.tune, SoftPrompt):
            views |= self.cfg.tune.initial(self.adapted, views, self.setting.tokenizer, self.cfg.seed)
        dtypes = {path: self.dtype_of(path) for path in variables(self.model)}
        places = shardings(self.model, self.mesh)
        params = place(self.model, views, places, dtypes, self.cfg.seed)
        if self.cfg.quantization is not None:
            part = self.cfg.quantization.part()
            params |= place_quantized(self.model, self.base, views, places, part, self.cfg.seed)
        trained = {path: params.pop(path) for path in self.trained}
        return trained, params, report

    def dtype_of(self, path: str) -> jnp.dtype:
        """The dtype in which a parameter is stored. What an adapter keeps of the weights is not rounded."""
        variable = variables(self.model)[path]
        exact = path in self.trained or is_adapter(variable)
        return jnp.float32 if exact else frozen_dtype(variable, self.model.dtype)

    def sizes(self) -> tuple[int, int]:
        """(number of trained parameters, number of frozen ones)."""
        counts = {path: math.prod(shape(variable)) for path, variable in variables(self.adapted).items()}
        trained = sum(counts[path] for path in self.trained)
        return trained, sum(counts.values()) - trained

    def merged(self, params: Params) -> tuple["Setup", Params]:
        """(the setup without adapters and quantised kernels, whose trained parameters are those that differ from the
        checkpoint's, and the parameters in which adapters are merged); as they are if there are neither. Not for a soft
        prompt."""
        if self.model is self.base:
            return self, params
        kernels = [path for path, _ in quantized_kernels(self.model)]
        if kernels:
            form = type(self.cfg.quantization).__name__
            log.info("the base's linear maps are written in floats, with the values that %s gave them", form)
            params = dequantized(self.model, self.base, params)
        changed = {*kernels, *adapted_weights(self.model), *self.trained}
        trained = [path for path in variables(self.base) if path in changed]
        built = replace(self, model=self.base, adapted=self.base, trained=trained)
        return built, merged_params(self.adapted, params)

    def _held(self, kernel: np.ndarray) -> np.ndarray:
        """A kernel (inputs, outputs) with the values that the model computes with, float32."""
        if self.cfg.quantization is None or not np.isfinite(kernel).all():  # which `place_quantized` reports
            return kernel
        return np.asarray(requantized(self.cfg.quantization.part(), kernel))

    def _trained_names(self) -> set[str]:
        return {name for path in self.trained for name in names(self.model, path)}


def build(cfg: Config, splits: list[str] | None = None, shared: Shared | None = None) -> Setup:
    """Everything but arrays: opens model and data, resolves the task, builds the model and the mesh.

    `splits` are the data to open (None: all), `shared` what other runs have made already. Raises UserError with all
    problems of a stage before the next, more expensive stage begins.
    """
    devices = jax.devices()[: jax.device_count()]
    cfg.validate(len(devices))
    shared = shared or Shared()
    pretrained = open_pretrained(cfg.model)
    if cfg.adapter is not None:
        if not isinstance(cfg.tune, PeftMethod):
            raise UserError(f"config.adapter: {type(cfg.tune).__name__} cannot go on from an adapter; leave it out")
        if cfg.init == "random":
            raise UserError("config.adapter is for the model that it was trained on, but config.init is 'random'")
        raise_problems(method_problems(read_adapter(cfg.adapter), cfg.tune, cfg.adapter))
        pretrained = with_labels(pretrained, cfg.adapter)
    sources = open_sources(cfg, splits, shared)
    spec = backbone_rules(pretrained.family, pretrained.reader, cfg.task.head).spec
    if (argument := spec.input_side.embed.argument) != "input_ids":
        raise UserError(f"{cfg.model} takes {argument}: there are tasks for models that read texts only")
    tokenizer = tokenizer_of(pretrained.directory, spec.input_side.embed.vocab, cfg.add_tokens)
    embedding = read_embedding(pretrained.directory) if cfg.task.head == "none" else None
    length = text_length(cfg)
    setting = EncodingContext(
        with_lower_case(tokenizer, embedding), length, spec.pool_token, pretrained.labels, embedding, spec.decoder_start
    )
    task = resolve_task(cfg, sources, setting)
    cfg = replace(cfg, task=task)
    tokens = 1 + max(tokenizer.get_vocab().values()) if cfg.add_tokens else 0
    arch = architecture(pretrained, task.head, len(task.labels) if task.labels else None, cfg.dropout, tokens)
    raise_problems(
        length_problems(cfg, arch)
        + label_problems(cfg, task, pretrained, arch)
        + tuning_problems(cfg)
        + (cfg.tune.refusals(arch, pretrained) if isinstance(cfg.tune, SoftPrompt) else [])
    )
    hidden = task.hidden or ("all" if task.max_predictions(1) is None else "read")
    model, base, trained = build_model(cfg, arch, devices[0].platform, hidden)
    if cfg.add_tokens and "embed.tokens.embedding" not in trained:
        raise UserError(
            "config.add_tokens gives tokens rows of the embeddings, which config.tune keeps as they are: none would "
            "be learned. Let embed.tokens train as well, or leave the tokens out"
        )
    if cfg.lr == "auto":
        count = sum(math.prod(shape(variable)) for variable in variables(base).values())
        cfg = replace(cfg, lr=peak_rate(cfg.tune, count))
        log.info("learning rate: %g, of %s for a model of this size", cfg.lr, type(cfg.tune).__name__)
    adapted = model
    if cfg.quantization is not None:
        own = {name for path in trained for name in names(model, path)}
        model = quantized(adapted, arch, cfg.quantization, own)
    mesh = mesh_for(cfg, model, trained, devices)
    task = with_functions(task, cfg.loss, cfg.metrics)
    virtual = cfg.tune.placed(arch) if isinstance(cfg.tune, SoftPrompt) else None
    return Setup(cfg, mesh, pretrained, arch, model, base, adapted, task, setting, trained, virtual, sources, shared)


def resolve_task(cfg: Config, sources: Mapping[str, Rows], setting: EncodingContext) -> Task:
    """The task with its labels: those of the training data or, if that is not opened, the checkpoint's."""
    if "train" in sources:
        return cfg.task.prepare(sources["train"].only(cfg.task.columns()), setting)
    task = cfg.task.resolved(setting)
    if task.labels is not None:
        return task
    if setting.labels is None:
        raise UserError(f"{cfg.model} does not name its classes: set config.task.labels, in the order of its outputs")
    return replace(task, labels=tuple(setting.labels))


def build_model(cfg: Config, arch: Architecture, platform: str, hidden: str = "all") -> tuple[Model, Model, list[str]]:
    """(the model, the model without adapters, the stored paths that train).

    Layers are stacked so that an array trains as a whole or not at all. Without adapters both models are one.
    """
    options = {"dtype": compute_dtype(cfg, platform), "remat": cfg.remat, "unroll": cfg.scan}
    known = tunable(Model(arch.spec, arch.head), arch)
    parts, chosen = cfg.tune.adapters(known), cfg.tune.select(known)
    if not chosen and not parts and not isinstance(cfg.tune, SoftPrompt):
        raise UserError("config.tune selects no parameter: nothing would train")
    marks = [*parts.items(), *((name, True) for name in chosen)]

    def trains(layer: str) -> frozenset[tuple[str, Any]]:
        return frozenset((name.removeprefix(layer), mark) for name, mark in marks if name.startswith(layer))

    model = base = Model(arch.spec, arch.head, trains=trains, hidden=hidden, **options)
    if parts or isinstance(cfg.tune, SoftPrompt):
        model = Model(arch.spec, arch.head, trains=trains, hidden=hidden, **options)
        attach(model, parts)
    if isinstance(cfg.tune, SoftPrompt):
        cfg.tune.attach(model)
    found = variables(model)
    trained = [path for path, one in found.items() if trained_adapter(one) or names(model, path)[0] in chosen]
    return model, base, trained


def compute_dtype(cfg: Config, platform: str) -> jnp.dtype:
    """Of activations and products. "auto" is bfloat16 on accelerators, float32 on CPU, where bfloat16 is slow."""
    if cfg.dtype != "auto":
        return jnp.dtype(cfg.dtype)
    return jnp.dtype("float32" if platform == "cpu" else "bfloat16")


def text_length(cfg: Config) -> int | None:
    """The most tokens of an example, without those of a soft prompt; None: no limit.

    config.max_len limits the text, the row lengths of config.batching hold both. Raises UserError if no text fits.
    """
    prompt = cfg.tune.row_tokens if isinstance(cfg.tune, SoftPrompt) else 0
    both = cfg.batching.max_example_length(cfg.max_len + prompt)
    if both is not None and both <= prompt:
        raise UserError(
            f"config.tune.num_virtual_tokens is {prompt}, but the rows of config.batching have {both} tokens: no text "
            "fits. Set fewer virtual tokens, or longer rows"
        )
    return None if both is None else both - prompt


def length_problems(cfg: Config, arch: Architecture) -> list[str]:
    """Whether examples exceed the model's positions. Packing does not matter: positions start at 0 in each example."""
    text = text_length(cfg) or cfg.batching.length
    prompt = cfg.tune.num_virtual_tokens if isinstance(cfg.tune, SoftPrompt) else 0
    longest, limit = text + prompt, arch.spec.input_side.max_positions if prompt else arch.spec.max_positions
    if limit is None or longest <= limit:
        return []
    if prompt >= limit:
        return [
            f"config.tune.num_virtual_tokens is {prompt}, but the model has {limit} positions for the prompt and the "
            "text: set fewer"
        ]
    if prompt:
        return [
            f"examples have up to {text} tokens after {prompt} virtual ones, but the model has {limit} positions: set "
            f"config.max_len (or the length in config.batching) so that a text has at most {limit - prompt}"
        ]
    return [
        f"examples have up to {longest} tokens, but the model has {limit} positions: set config.max_len (or the length "
        f"in config.batching) to {limit} or less"
    ]


def unknown_problems(report: DataReport, limit: float) -> list[str]:
    """Whether more than a fraction `limit` of the tokens is unknown to the tokenizer."""
    unknown, ordinary = report.unknown, report.ordinary
    if unknown is None or ordinary is None or unknown <= limit * ordinary:
        return []
    return [
        f"{unknown:,} of {ordinary:,} tokens ({unknown / ordinary:.1%}) are unknown to the tokenizer, and "
        f"config.max_unknown allows {limit:.1%}: use a model whose tokenizer knows the language of the texts, "
        "or raise config.max_unknown"
    ]


def tuning_problems(cfg: Config) -> list[str]:
    """Whether there is the evaluation set on which the task tunes thresholds."""
    name = cfg.task.tuning_set
    if name is None or name in cfg.evals:
        return []
    known = f"The evals are: {listed(cfg.evals)}." if cfg.evals else "There are no evals."
    return [
        f"config.task tunes thresholds on {truncated_repr(name)}, but no eval has this name.{suggest(name, cfg.evals)} "
        f"{known}"
    ]


def label_problems(cfg: Config, task: Task, pretrained: Pretrained, arch: Architecture) -> list[str]:
    """Whether the checkpoint's classifier is for other classes than the task's, and would be used for these."""
    has_head = pretrained.family.architectures.get(task.head) in (pretrained.raw.get("architectures") or [])
    if cfg.init != "pretrained" or not (has_head or cfg.adapter) or pretrained.labels is None:
        return []
    if not task.labels or list(task.labels) == pretrained.labels:
        return []
    whose, fix = "checkpoint's", "set config.init='backbone' to start with a new head"
    if cfg.adapter:
        whose, fix = (
            "adapter's",
            "set config.task.labels to them if the data has these, or train without config.adapter",
        )
    return [
        f"the {whose} head knows the classes {listed(pretrained.labels)}, the data has {listed(task.labels)}: {fix}"
    ]
