"""The optimizer of a run, its jitted steps, and the placement of its arrays."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding

from jaxft.config.component import ARGUMENT, to_json
from jaxft.models.batch import Batch
from jaxft.models.params import Params, shape, shardings, variables
from jaxft.optim.base import lr_multipliers, optimizer
from jaxft.training.layout import opt_placements
from jaxft.training.setup import Setup
from jaxft.training.step import (
    Gradient,
    StepMetrics,
    TrainState,
    apply_gradient,
    batch_gradient,
    eval_step,
    train_step,
)

RATES = 1000  # learning rates of a run that are checked


class UpdateNumbers(NamedTuple):
    """Arguments of the compiled update: runs that differ in them alone share it."""

    rate: jax.Array  # learning rate of this update
    clip: jax.Array | None  # maximum global norm of the gradient
    optim: dict[str, jax.Array]  # fields of the optimizer that are marked ARGUMENT


@dataclass
class CompiledSteps:
    """The optimizer of a run, and its two jitted functions: gradient and update.

    The seed, the learning rate and other numbers are arguments of these, and the schedule is a small program of its
    own, so that runs that differ in such numbers only share them (training/shared.py).
    """

    built: Setup
    schedule: optax.Schedule
    multipliers: dict[str, np.ndarray]  # of the learning rate, by path
    tx: optax.GradientTransformation
    placements: TrainState[NamedSharding]

    def abstract_state(self) -> TrainState[jax.ShapeDtypeStruct]:
        """Shapes, dtypes and placements, as needed for restoring a checkpoint."""
        model, paths = self.built.model, self.built.trained
        params = {
            path: jax.ShapeDtypeStruct(shape(v), jnp.float32) for path, v in variables(model).items() if path in paths
        }
        number = jax.ShapeDtypeStruct((), jnp.int32)
        state = TrainState(number, number, params, jax.eval_shape(self.tx.init, params))
        return _placed(state, self.placements)

    def initial_state(self, params: Params) -> TrainState[jax.Array]:
        """The state of step 0. Removes the parameters from `params` and copies them, so that a step can donate them:
        memory that the host filled (models/checkpoint/load.py) cannot be donated, and would double the peak."""
        own = partial(jax.device_put, may_alias=False)  # jnp.copy would compile a program: 0.3 s, 30 MiB
        params = {path: own(params.pop(path), place) for path, place in self.placements.params.items()}
        init = self._program("init", lambda: jax.jit(self.tx.init, out_shardings=self.placements.opt))
        opt = init(params)
        step, skipped = (own(np.int32(0), self.built.replicated) for _ in range(2))
        return TrainState(step, skipped, params, opt)

    def step(self) -> Callable[[TrainState[jax.Array], Params, Batch], tuple[TrainState[jax.Array], StepMetrics]]:
        """(state, frozen, batch) -> (state, metrics). Its two parts are jitted; the state is donated."""
        gradient = partial(self.gradient, seed=self._seed)
        return partial(
            train_step, gradient=gradient, update=lambda state, values: self.update(state, values, self._numbers(state))
        )

    def compile(self, state: TrainState[jax.Array], frozen: Params, batch: Batch) -> None:
        """Compiles what the next call of the step with such a batch would compile."""
        gradient = self.gradient.lower(state.params, state.step, frozen, batch, seed=self._seed)
        gradient.compile()
        values = _placed(gradient.out_info, self._gradient_placements())
        self.update.lower(state, values, self._numbers(state)).compile()

    def _gradient_placements(self) -> Gradient:
        # A prefix of the tree: one placement stands for all of `sums`.
        return Gradient._make((self.placements.params, self.built.replicated, self.built.replicated))

    @cached_property
    def gradient(self) -> jax.stages.Wrapped:
        """Jitted (params, step, frozen, batch, seed=) -> Gradient."""
        function = partial(
            batch_gradient,
            loss=self.built.loss,
            micro_batches=self.built.cfg.micro_batches,
            prepare_batch=self.built.task.prepare_batch,
        )
        return self.built.program(
            "gradient", None, lambda: jax.jit(function, out_shardings=self._gradient_placements())
        )

    @cached_property
    def update(self) -> jax.stages.Wrapped:
        """Jitted (state, gradient, numbers) -> (state, metrics); donates the state."""
        optim: Any = self.built.cfg.optim
        model, trained = self.built.model, self.built.trained

        def update(
            state: TrainState[jax.Array], gradient: Gradient, numbers: UpdateNumbers
        ) -> tuple[TrainState[jax.Array], StepMetrics]:
            def rate(_: Any) -> jax.Array:
                return numbers.rate

            given = dataclasses.replace(optim, **numbers.optim)
            tx = optimizer(given, rate, model, trained, self.multipliers)
            return apply_gradient(state, gradient, tx=tx, schedule=rate, clip=numbers.clip)

        out = (self.placements, self.built.replicated)
        return self._program("update", lambda: jax.jit(update, donate_argnums=0, out_shardings=out))

    @cached_property
    def rate(self) -> jax.stages.Wrapped:
        """Jitted (step, skipped) -> the learning rate, float32: by the updates made, as Optax counts them."""

        def rate(step: jax.Array, skipped: jax.Array) -> jax.Array:
            return jnp.asarray(self.schedule(step - skipped), jnp.float32)

        return jax.jit(rate, out_shardings=self.built.replicated)

    def _numbers(self, state: TrainState[jax.Array]) -> UpdateNumbers:
        return self._constants._replace(rate=self.rate(state.step, state.skipped))

    @cached_property
    def _constants(self) -> UpdateNumbers:
        """The numbers that stay the same from step to step; the rate is that of the first."""
        cfg, put = self.built.cfg, partial(jax.device_put, device=self.built.replicated)
        clip = None if cfg.clip is None else put(np.float32(cfg.clip))
        return UpdateNumbers(put(np.float32(0)), clip, jax.tree.map(put, _arguments(cfg.optim)))

    @cached_property
    def _seed(self) -> jax.Array:
        return jax.device_put(np.uint32(self.built.cfg.seed), self.built.replicated)

    def _program(self, name: str, make: Callable[[], jax.stages.Wrapped]) -> jax.stages.Wrapped:
        """A function that depends on the optimizer, but not on its numbers that are arguments."""
        cfg = self.built.cfg
        optim = {key: value for key, value in to_json(cfg.optim).items() if key not in _arguments(cfg.optim)}
        return self.built.program(name, [optim, to_json(cfg.lr_multipliers), cfg.layer_decay], make)


def compiled_steps(built: Setup, total: int) -> CompiledSteps:
    """Optimizer and steps of a run of `total` updates; nothing is compiled yet."""
    cfg, model = built.cfg, built.model
    schedule = cfg.schedule.make(cfg.lr, total)
    multipliers = lr_multipliers(model, cfg.lr_multipliers, cfg.layer_decay)
    tx = optimizer(cfg.optim, schedule, model, built.trained, multipliers)
    params = {path: placement for path, placement in shardings(model, built.mesh).items() if path in built.trained}
    shapes = {path: jax.ShapeDtypeStruct(shape(variables(model)[path]), jnp.float32) for path in built.trained}
    opt = opt_placements(jax.eval_shape(tx.init, shapes), params, shapes, built.replicated)
    placements = TrainState(built.replicated, built.replicated, params, opt)
    return CompiledSteps(built, schedule, multipliers, tx, placements)


def idle_problems(plan: CompiledSteps, total: int) -> list[str]:
    """Why a run of `total` steps would not change any weight."""
    cfg = plan.built.cfg
    updates = np.unique(np.linspace(0, total - 1, RATES).astype(np.int32))
    rates = np.asarray(jax.jit(jax.vmap(plan.schedule))(updates))
    factors = plan.multipliers
    found: list[str] = []
    if not np.any(rates > 0):
        found.append(
            f"the learning rate is 0 in every one of the run's {total} steps: set config.schedule.warmup=0, more "
            f"config.{'steps' if cfg.steps else 'epochs'}, or a smaller config.batch than {cfg.batch}"
        )
    if not any(np.any(factors[path]) for path in plan.built.trained):
        found.append("config.lr_multipliers gives 0 to all that config.tune trains: let some of it learn")
    return found


def evaluation_step(built: Setup) -> jax.stages.Wrapped:
    """Jitted (trained, frozen, batch) -> (sums, outputs), replicated, so that every process has the whole result."""
    step = partial(eval_step, forward=built.forward, task=built.task)
    return built.program("evaluation", None, lambda: jax.jit(step, out_shardings=built.replicated))


def _arguments(optim: Any) -> dict[str, np.float32]:
    """The numbers of an optimizer that its compiled update gets as arguments, by field."""
    marked = [field.name for field in dataclasses.fields(optim) if field.metadata == ARGUMENT]
    return {name: np.float32(getattr(optim, name)) for name in marked}


def _placed(shapes: Any, placements: Any) -> Any:
    """Abstract arrays with placements; `placements` may be a prefix of the tree."""
    placements = jax.tree.broadcast(placements, shapes)
    return jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), shapes, placements)
