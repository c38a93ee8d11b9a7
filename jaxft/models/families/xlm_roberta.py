"""XLM-R (Conneau et al. 2020): RoBERTa with a vocabulary of a hundred languages."""

from dataclasses import replace

from jaxft.models.families import roberta
from jaxft.models.hf import ENCODER_HEADS, architectures

FAMILY = replace(roberta.FAMILY, architectures=architectures("XLMRoberta", ENCODER_HEADS))
