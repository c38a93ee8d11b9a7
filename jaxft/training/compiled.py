"""The optimizer of a built run, its jitted steps, and where everything is placed."""

from dataclasses import dataclass
from functools import cached_property, partial

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxft.models.params import Params, shape, shardings, variables
from jaxft.optim.base import lr_multipliers, optimizer
from jaxft.training.layout import opt_placements
from jaxft.training.setup import Setup
from jaxft.training.step import Gradient, TrainState, apply_gradient, batch_gradient, eval_step, train_step

RATES = 1000  # of a run: how many learning rates are looked at


@dataclass
class CompiledSteps:
    """The optimizer of a built run and its two jitted steps."""

    built: Setup
    schedule: optax.Schedule
    tx: optax.GradientTransformation
    placements: TrainState  # of every array of the state

    def abstract_state(self) -> TrainState:
        """Shapes, dtypes and placements, to restore a checkpoint into."""
        model, paths = self.built.model, self.built.trained
        params = {
            path: jax.ShapeDtypeStruct(shape(v), jnp.float32) for path, v in variables(model).items() if path in paths
        }
        number = jax.ShapeDtypeStruct((), jnp.int32)
        state = TrainState(number, number, params, jax.eval_shape(self.tx.init, params))
        return _placed(state, self.placements)

    def initial_state(self, params: Params) -> TrainState:
        """Takes the parameters out of `params`: into memory of their own, which a step can reuse. Memory that was
        filled by the host (models/checkpoint/load.py) cannot be, and the first step would hold everything twice."""
        own = partial(jax.device_put, may_alias=False)  # unlike jnp.copy, it compiles nothing: 0.3 s, 30 MiB
        params = {path: own(params.pop(path), place) for path, place in self.placements.params.items()}
        opt = jax.jit(self.tx.init, out_shardings=self.placements.opt)(params)
        zeros = [own(np.int32(0), self.built.replicated) for _ in range(2)]
        return TrainState(*zeros, params, opt)

    def step(self):
        """(state, frozen, batch) -> (state, metrics), not to be jitted again; donates the state, pins all results."""
        return partial(train_step, gradient=self.gradient, update=self.update)

    def compile(self, state: TrainState, frozen: Params, batch) -> None:
        """Compile what the next call of the step with such a batch would compile."""
        gradient = self.gradient.lower(state.params, state.step, frozen, batch)
        gradient.compile()
        self.update.lower(state, _placed(gradient.out_info, self._gradient_placements())).compile()

    def _gradient_placements(self) -> Gradient:
        return Gradient(self.placements.params, self.built.replicated, self.built.replicated)

    @cached_property
    def gradient(self):
        cfg = self.built.cfg
        fixed = {"loss": self.built.loss, "micro_batches": cfg.micro_batches, "seed": cfg.seed}
        function = partial(batch_gradient, **fixed, prepare_batch=self.built.task.prepare_batch)
        return jax.jit(function, out_shardings=self._gradient_placements())

    @cached_property
    def update(self):
        function = partial(apply_gradient, tx=self.tx, schedule=self.schedule, clip=self.built.cfg.clip)
        return jax.jit(function, donate_argnums=0, out_shardings=(self.placements, self.built.replicated))


def training(built: Setup, total: int) -> CompiledSteps:
    """The optimizer for a run of `total` updates."""
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
    """Why no step of a run of `total` steps would change a weight."""
    cfg, model = plan.built.cfg, plan.built.model
    updates = np.unique(np.linspace(0, total - 1, RATES).astype(np.int32))
    rates = np.asarray(jax.jit(jax.vmap(plan.schedule))(updates))
    factors = lr_multipliers(model, cfg.lr_multipliers, cfg.layer_decay)
    found = []
    if not np.any(rates > 0):
        found.append(
            f"the learning rate is 0 in every one of the run's {total} steps: set config.schedule.warmup=0, more "
            f"config.{'steps' if cfg.steps else 'epochs'}, or a smaller config.batch than {cfg.batch}"
        )
    if not any(np.any(factors[path]) for path in plan.built.trained):
        found.append("config.lr_multipliers gives 0 to all that config.tune trains: let some of it learn")
    return found


def evaluation_step(built: Setup):
    """(trained, frozen, batch) -> sums and kept slots, replicated so that every process has the whole result."""
    step = partial(eval_step, forward=built.forward, task=built.task)
    return jax.jit(step, out_shardings=built.replicated)


def _placed(shapes, placements):
    """Abstract arrays with their placements, of which one may stand for many."""
    placements = jax.tree.broadcast(placements, shapes)
    return jax.tree.map(lambda x, at: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=at), shapes, placements)
