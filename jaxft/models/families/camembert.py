"""CamemBERT (Martin et al. 2020): RoBERTa for French."""

from dataclasses import replace

from jaxft.models.checkpoint.weight_table import architectures
from jaxft.models.families import roberta

FAMILY = replace(roberta.FAMILY, architectures=architectures("Camembert", roberta.HEADS))
