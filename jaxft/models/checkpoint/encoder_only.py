"""One side of an encoder-decoder without the other, for heads that need only that side."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from jaxft.models.checkpoint.config_reader import ConfigReader
from jaxft.models.checkpoint.weight_table import Family, TensorMap, WeightRule, embedding
from jaxft.models.layers.basic import Unused
from jaxft.models.spec import Spec

ENCODER = "encoder."  # what the names of an encoder's parameters begin with if a decoder follows


class BackboneRules(NamedTuple):
    """A backbone and its weights."""

    spec: Spec
    rules: list[WeightRule]
    unused: frozenset[str]  # tensors of the side that is left out, which a checkpoint may have


def backbone_rules(family: Family, c: ConfigReader, kind: str) -> BackboneRules:
    """The backbone under the head `kind`."""
    spec, rules = family.spec(c), family.rules(c)
    found = next((one for one in family.one_sided if one.head == kind), None)
    if found is None:
        return BackboneRules(spec, rules, frozenset())
    side = _encoder if found.side == "encoder" else _decoder
    alone, kept = side(spec, rules, found.tokens)
    names = {rule.hf for rule in kept}
    dropped = tensor_maps((rule for rule in rules if rule.hf not in names), spec)
    return BackboneRules(alone, kept, frozenset(tensor_map.hf for tensor_map in dropped))


def tensor_maps(rules: Iterable[WeightRule], spec: Spec) -> list[TensorMap]:
    """The tensors of all layers. A parameter has one rule: with two, an export would write both."""
    rules = list(rules)
    twice = [name for name, count in Counter(rule.jaxft for rule in rules).items() if count > 1]
    assert not twice, f"two weight rules for {', '.join(twice)}"
    layers = len(spec.layers), len(spec.encoder.layers) if spec.encoder else 0
    return [tensor_map for rule in rules for tensor_map in rule.tensor_maps(*layers)]


def _encoder(spec: Spec, rules: list[WeightRule], tokens: str | None) -> tuple[Spec, list[WeightRule]]:
    """The encoder, named as a model without an encoder; `tokens` if it shares the decoder's token embeddings."""
    assert spec.encoder is not None, "an encoder-decoder"
    kept = [rule._replace(jaxft=rule.jaxft.removeprefix(ENCODER)) for rule in rules if rule.jaxft.startswith(ENCODER)]
    if not spec.encoder.embed.shared_embedding:
        return spec.encoder, kept
    assert tokens is not None, "the family names the embeddings that its encoder shares"
    embed = replace(spec.encoder.embed, shared_embedding=False)
    return replace(spec.encoder, embed=embed), [WeightRule(tokens, "embed.tokens", embedding), *kept]


def _decoder(spec: Spec, rules: list[WeightRule], tokens: str | None) -> tuple[Spec, list[WeightRule]]:
    """The decoder. Its cross-attention is kept but not used, so that an export has all of the checkpoint's tensors."""
    assert tokens is not None, "a decoder has token embeddings"
    layers = tuple(replace(layer, cross=layer.cross and Unused(layer.cross)) for layer in spec.layers)
    kept = [rule for rule in rules if not rule.jaxft.startswith((ENCODER, "embed.tokens"))]
    return replace(spec, layers=layers, encoder=None, decoder_start=None), [
        WeightRule(tokens, "embed.tokens", embedding),
        *kept,
    ]
