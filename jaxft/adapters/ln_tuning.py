"""LayerNorm tuning (Zhao et al. 2023, "Tuning LayerNorm in Attention: Towards Efficient Multi-Modal LLM
Finetuning")."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from jaxft.adapters.base import PeftMethod, StoredModule
from jaxft.adapters.targets import short_names
from jaxft.config.component import config
from jaxft.tune.base import Tunable


@config
class LNTuning(PeftMethod):
    """The scales and biases of the norms train, with the head of a task.

    It takes a larger learning rate than full tuning: 1e-3 to 1e-2.
    """

    lr_scale: ClassVar[float] = 10.0  # tune/learning_rate.py
    peft_type: ClassVar[str] = "LN_TUNING"
    own_norms: ClassVar[bool] = True

    def select(self, model: Tunable) -> set[str]:
        """See tune/base.py."""
        norms = {name.rpartition(".")[0] for name, role in model.roles.items() if role == "norm"}
        return {
            name
            for name in model.roles
            if name.rpartition(".")[0] in norms or (model.trains_head and name.startswith("head."))
        }

    def adapters(self, model: Tunable) -> dict[str, object]:
        """None."""
        return {}

    def settings(self, found: Mapping[str, StoredModule], modules: Sequence[str]) -> dict[str, Any]:
        """See adapters/base.py."""
        return {"target_modules": short_names(found, modules)}
