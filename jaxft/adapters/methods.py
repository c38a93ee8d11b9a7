"""The methods whose files jaxft reads, by PEFT's names."""

from collections.abc import Mapping
from typing import Any

from jaxft.adapters.base import PeftMethod
from jaxft.adapters.dora import DoRA
from jaxft.adapters.hira import HiRA
from jaxft.adapters.ia3 import IA3
from jaxft.adapters.ln_tuning import LNTuning
from jaxft.adapters.loha import LoHa
from jaxft.adapters.lokr import LoKr
from jaxft.adapters.lora import LoRA
from jaxft.adapters.miss import MiSS
from jaxft.adapters.oft import OFT

METHODS: Mapping[str, type[PeftMethod]] = {
    method.peft_type: method for method in (LoRA, IA3, LNTuning, MiSS, OFT, HiRA, LoHa, LoKr)
}


def method_of(config: Mapping[str, Any]) -> type[PeftMethod] | None:
    """The method of an adapter_config.json; None: jaxft does not have it."""
    method = METHODS.get(str(config.get("peft_type")))
    return DoRA if method is LoRA and config.get("use_dora") else method
