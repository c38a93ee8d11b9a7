"""XLM-R (Conneau et al. 2020): RoBERTa with a vocabulary of a hundred languages."""

from dataclasses import replace

from jaxft.models.families import roberta
from jaxft.models.hf import architectures

FAMILY = replace(roberta.FAMILY, architectures=architectures("XLMRoberta", roberta.HEADS))
