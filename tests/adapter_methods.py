"""The methods of adapters and the kinds of families that the tests go through; and docs/methods.md, which says so:
python tests/adapter_methods.py"""

import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

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

PAGE = Path(__file__).parent.parent / "docs" / "methods.md"
METHODS = {
    "LoRA": LoRA(rank=3, alpha=7.0),
    "DoRA": DoRA(rank=3, alpha=7.0),
    "PiSSA": PiSSA(rank=3, alpha=3.0),
    "OLoRA": OLoRA(rank=3, alpha=7.0),
    "IA3": IA3(),
    "LNTuning": LNTuning(),
    "MiSS": MiSS(rank=5),
    "OFT": OFT(block_size=4),
    "OFT, exact and shared": OFT(block_size=6, block_share=True, neumann_terms=0),
    "HiRA": HiRA(rank=3),
    "LoHa": LoHa(rank=2, alpha=3.0),
    "LoKr": LoKr(rank=2, alpha=3.0),
    "LoKr, both": LoKr(rank=1, decompose_both=True, decompose_factor=5),
}
KINDS = {
    "encoder": ("bert", "sequence-classification"),
    "decoder": ("llama", "causal-lm"),
    "fused": ("gpt2", "causal-lm"),
    "encoder-decoder": ("t5", "seq2seq-lm"),
    "MoE": ("mixtral", "causal-lm"),
    "vision": ("vit", "image-classification"),
}
# (method, kind) -> why PEFT cannot have the adapter: the export of one is refused.
REFUSED = {
    (name, "fused"): "PEFT has it for torch.nn.Linear only, not for matrices that are stored as (inputs, outputs)"
    for name in ("MiSS", "OFT", "OFT, exact and shared", "LoHa", "LoKr", "LoKr, both")
} | {("HiRA", "fused"): "PEFT has one rank for all modules, so that three maps in one matrix cannot have one adapter"}
TEXT = """# Ways to tune, beside PEFT

Every mark below is a test (tests/test_adapter_methods.py): a small random model of the kind, every parameter and every
adapter perturbed. Logits within 1e-5 of the largest: PEFT with jaxft's files, jaxft with the adapter merged, jaxft with
its own files and with PEFT's; and as many trained parameters as in PEFT. On the encoder also: the losses of 20 steps
beside PEFT's within 1e-4, eight devices give the gradients of one (each but OLoRA and LNTuning), and a run that resumes
equals one that was not interrupted, to the last bit (LoRA, DoRA, PiSSA). LoRA is tested on each of the model families
(tests/test_adapter_families.py). `python tests/adapter_methods.py` writes this page.

{table}

{reasons}

The decoder is a Llama, `fused` a GPT-2, whose queries, keys and values are one matrix that is stored as (inputs,
outputs), the MoE a Mixtral, whose experts have no adapters, vision a ViT.

Soft prompts (tests/test_soft_prompts.py, tests/test_prefix_tuning.py) are compared with PEFT in the same way on
encoders, decoders and, but for prefix tuning, encoder-decoders; a prompt cannot be merged. Quantised bases are compared
with bitsandbytes, to the last bit (tests/test_quantization.py, tests/test_qlora.py).
"""


def page() -> str:
    """The text of docs/methods.md."""
    lines = [f"| `tune` | {' | '.join(KINDS)} |", "|---" * (len(KINDS) + 1) + "|"]
    reasons = list(dict.fromkeys(REFUSED.values()))
    for method in METHODS:
        why = [REFUSED.get((method, kind)) for kind in KINDS]
        marks = ["yes" if reason is None else f"no ({reasons.index(reason) + 1})" for reason in why]
        lines.append(f"| {method} | {' | '.join(marks)} |")
    notes = "\n".join(f"({number}) {reason}." for number, reason in enumerate(reasons, 1))
    return TEXT.format(table="\n".join(lines), reasons=notes)


if __name__ == "__main__":
    PAGE.write_text(page())
