"""XLM-R (Conneau et al. 2020): RoBERTa with a vocabulary of 100 languages."""

from dataclasses import replace

from jaxft.models.checkpoint.weight_table import architectures
from jaxft.models.families import roberta

FAMILY = replace(roberta.FAMILY, architectures=architectures("XLMRoberta", roberta.HEADS))
