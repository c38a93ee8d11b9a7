"""CamemBERT (Martin et al. 2020): RoBERTa for French."""

from dataclasses import replace

from jaxft.models.families import roberta
from jaxft.models.hf import architectures

FAMILY = replace(roberta.FAMILY, architectures=architectures("Camembert", roberta.HEADS))
