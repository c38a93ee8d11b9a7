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
from jaxft.adapters.olora import OLoRA
from jaxft.adapters.pissa import PiSSA

METHODS: Mapping[str, type[PeftMethod]] = {
    method.peft_type: method for method in (LoRA, IA3, LNTuning, MiSS, OFT, HiRA, LoHa, LoKr)
}
STARTS: Mapping[Any, type[PeftMethod]] = {"pissa": PiSSA, "olora": OLoRA}  # by PEFT's init_lora_weights


def method_of(config: Mapping[str, Any]) -> type[PeftMethod] | None:
    """The method of an adapter_config.json; None: jaxft does not have it."""
    method = METHODS.get(str(config.get("peft_type")))
    if method is not LoRA:
        return method
    if config.get("init_lora_weights") in STARTS:
        return STARTS[config["init_lora_weights"]]
    return DoRA if config.get("use_dora") else LoRA
