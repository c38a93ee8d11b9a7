"""The optimizer of a run, its jitted steps, and the placement of its arrays."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding

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


@dataclass
class CompiledSteps:
    """The optimizer of a run, and its two jitted functions: gradient and update."""

    built: Setup
    schedule: optax.Schedule
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
        opt = jax.jit(self.tx.init, out_shardings=self.placements.opt)(params)
        step, skipped = (own(np.int32(0), self.built.replicated) for _ in range(2))
        return TrainState(step, skipped, params, opt)

    def step(self) -> Callable[[TrainState[jax.Array], Params, Batch], tuple[TrainState[jax.Array], StepMetrics]]:
        """(state, frozen, batch) -> (state, metrics). Its two parts are jitted; the state is donated."""
        return partial(train_step, gradient=self.gradient, update=self.update)

    def compile(self, state: TrainState[jax.Array], frozen: Params, batch: Batch) -> None:
        """Compiles what the next call of the step with such a batch would compile."""
        gradient = self.gradient.lower(state.params, state.step, frozen, batch)
        gradient.compile()
        self.update.lower(state, _placed(gradient.out_info, self._gradient_placements())).compile()

    def _gradient_placements(self) -> Gradient:
        # A prefix of the tree: one placement stands for all of `sums`.
        return Gradient._make((self.placements.params, self.built.replicated, self.built.replicated))

    @cached_property
    def gradient(self) -> jax.stages.Wrapped:
        """Jitted (params, step, frozen, batch) -> Gradient."""
        function = partial(
            batch_gradient,
            loss=self.built.loss,
            micro_batches=self.built.cfg.micro_batches,
            seed=self.built.cfg.seed,
            prepare_batch=self.built.task.prepare_batch,
        )
        return jax.jit(function, out_shardings=self._gradient_placements())

    @cached_property
    def update(self) -> jax.stages.Wrapped:
        """Jitted (state, gradient) -> (state, metrics); donates the state."""
        function = partial(apply_gradient, tx=self.tx, schedule=self.schedule, clip=self.built.cfg.clip)
        return jax.jit(function, donate_argnums=0, out_shardings=(self.placements, self.built.replicated))


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
    return CompiledSteps(built, schedule, tx, placements)


def idle_problems(plan: CompiledSteps, total: int) -> list[str]:
    """Why a run of `total` steps would not change any weight."""
    cfg, model = plan.built.cfg, plan.built.model
    updates = np.unique(np.linspace(0, total - 1, RATES).astype(np.int32))
    rates = np.asarray(jax.jit(jax.vmap(plan.schedule))(updates))
    factors = lr_multipliers(model, cfg.lr_multipliers, cfg.layer_decay)
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
    return jax.jit(step, out_shardings=built.replicated)


def _placed(shapes: Any, placements: Any) -> Any:
    """Abstract arrays with placements; `placements` may be a prefix of the tree."""
    placements = jax.tree.broadcast(placements, shapes)
    return jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), shapes, placements)
