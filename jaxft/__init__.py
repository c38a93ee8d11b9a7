"""jaxft: fine-tune Transformers in JAX, from Hugging Face weights to Hugging Face weights."""

from jaxft.host import startup

startup.begin()  # before anything else is imported

import importlib  # noqa: E402 (after the call above)
from typing import TYPE_CHECKING, Any  # noqa: E402

if TYPE_CHECKING:
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
    from jaxft.adapters.p_tuning import PTuning
    from jaxft.adapters.pissa import PiSSA
    from jaxft.adapters.prefix_tuning import PrefixTuning
    from jaxft.adapters.prompt_tuning import PromptTuning
    from jaxft.attribution.explain import explain
    from jaxft.config.run import Config, EarlyStopping, Eval, Mesh, Save
    from jaxft.data.augment import Augmented
    from jaxft.data.batching import Chunk, Pack, Pad
    from jaxft.data.blank import Blanked
    from jaxft.data.duplicates import Deduplicated
    from jaxft.data.folds import Fold
    from jaxft.data.source import Data
    from jaxft.data.tfds import TFDS
    from jaxft.inference.model import LoadedModel, load
    from jaxft.optim.adafactor import Adafactor
    from jaxft.optim.adamw import AdamW
    from jaxft.optim.adamw8bit import AdamW8bit
    from jaxft.optim.lion import Lion
    from jaxft.optim.muon import Muon
    from jaxft.optim.schedule import WSD, Constant, Cosine, InverseSqrt, Linear
    from jaxft.optim.sgd import SGD
    from jaxft.problems import UserError
    from jaxft.quantization.fp4 import FP4
    from jaxft.quantization.int8 import Int8
    from jaxft.quantization.nf4 import NF4
    from jaxft.tasks.classify import Classify, MultiLabel, Regress
    from jaxft.tasks.cloze import Cloze
    from jaxft.tasks.contrastive_embedding import ContrastiveEmbedding, Similarity, Triplet
    from jaxft.tasks.denoise import Denoise
    from jaxft.tasks.entity_spans import EntitySpans
    from jaxft.tasks.grouped_verification import GroupedVerification
    from jaxft.tasks.lm import CausalLM
    from jaxft.tasks.mlm import MaskedLM
    from jaxft.tasks.multiple_choice import MultipleChoice
    from jaxft.tasks.pretrain import NextSentence, SentenceOrder
    from jaxft.tasks.question_answering import QuestionAnswering
    from jaxft.tasks.replaced_tokens import ReplacedTokens
    from jaxft.tasks.span_corruption import SpanCorruption
    from jaxft.tasks.token_classification import TokenClassification
    from jaxft.training.callback import Callback
    from jaxft.training.fit import FitResult, fit
    from jaxft.tune.bitfit import Bitfit
    from jaxft.tune.full import Full
    from jaxft.tune.partial import Partial

__version__ = "0.1.0"
__all__ = [
    "Adafactor",
    "AdamW",
    "AdamW8bit",
    "Augmented",
    "Bitfit",
    "Blanked",
    "Callback",
    "CausalLM",
    "Chunk",
    "Classify",
    "Cloze",
    "Config",
    "Constant",
    "ContrastiveEmbedding",
    "Cosine",
    "Data",
    "Deduplicated",
    "Denoise",
    "DoRA",
    "EarlyStopping",
    "EntitySpans",
    "Eval",
    "FP4",
    "FitResult",
    "Fold",
    "Full",
    "GroupedVerification",
    "HiRA",
    "IA3",
    "Int8",
    "InverseSqrt",
    "LNTuning",
    "Linear",
    "Lion",
    "LoHa",
    "LoKr",
    "LoRA",
    "LoadedModel",
    "MaskedLM",
    "Mesh",
    "MiSS",
    "MultiLabel",
    "MultipleChoice",
    "Muon",
    "NF4",
    "NextSentence",
    "OFT",
    "OLoRA",
    "PTuning",
    "Pack",
    "Pad",
    "Partial",
    "PiSSA",
    "PrefixTuning",
    "PromptTuning",
    "QuestionAnswering",
    "Regress",
    "ReplacedTokens",
    "SGD",
    "Save",
    "SentenceOrder",
    "Similarity",
    "SpanCorruption",
    "TFDS",
    "TokenClassification",
    "Triplet",
    "UserError",
    "WSD",
    "explain",
    "fit",
    "load",
]

# The module of each public name; those of components are in config/config_dict.py.
_MODULES = {
    "Callback": "jaxft.training.callback",
    "Config": "jaxft.config.run",
    "EarlyStopping": "jaxft.config.run",
    "Eval": "jaxft.config.run",
    "FitResult": "jaxft.training.fit",
    "LoadedModel": "jaxft.inference.model",
    "Mesh": "jaxft.config.run",
    "Save": "jaxft.config.run",
    "UserError": "jaxft.problems",
    "explain": "jaxft.attribution.explain",
    "fit": "jaxft.training.fit",
    "load": "jaxft.inference.model",
}


def __getattr__(name: str) -> Any:
    # Lazy, so that `import jaxft` and `--help` do not wait for JAX.
    if name not in __all__:
        raise AttributeError(f"module 'jaxft' has no attribute {name!r}")
    return getattr(importlib.import_module(_modules()[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _modules() -> dict[str, str]:
    from jaxft.config import config_dict

    return {**config_dict.MODULE_OF, **_MODULES}
