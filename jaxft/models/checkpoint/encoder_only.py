"""One side of an encoder-decoder without the other, for heads that stand on it alone."""

from dataclasses import replace

from jaxft.models.checkpoint.weight_table import Family, TensorMap, WeightRule, embedding
from jaxft.models.layers.basic import Unused
from jaxft.models.spec import Spec

ENCODER = "encoder."  # what an encoder's parameters are called where it stands before a decoder


def sided(family: Family, c, kind: str) -> tuple[Spec, list[WeightRule], frozenset[str]]:
    """The backbone under the head `kind`, its rows, and names of the other side's tensors, which a file may have."""
    spec, rows = family.spec(c), family.rows(c)
    found = next(((side, tokens) for head, side, tokens in family.sides if head == kind), None)
    if found is None:
        return spec, rows, frozenset()
    alone, mine = (_encoder if found[0] == "encoder" else _decoder)(spec, rows, found[1])
    left = [row for row in rows if row.theirs not in {row.theirs for row in mine}]
    return alone, mine, frozenset(entry.theirs for entry in entries(left, spec))


def entries(rows: list[WeightRule], spec: Spec) -> list[TensorMap]:
    """The tensors of all layers."""
    layers = len(spec.layers), len(spec.encoder.layers) if spec.encoder else 0
    return [entry for row in rows for entry in row.entries(*layers)]


def _encoder(spec: Spec, rows: list[WeightRule], tokens: str | None) -> tuple[Spec, list[WeightRule]]:
    """Under the names of a model of its own; with the table of tokens, where it has the decoder's."""
    mine = [row._replace(ours=row.ours.removeprefix(ENCODER)) for row in rows if row.ours.startswith(ENCODER)]
    if not spec.encoder.embed.shared_embedding:
        return spec.encoder, mine
    embed = replace(spec.encoder.embed, shared_embedding=False)
    return replace(spec.encoder, embed=embed), [WeightRule(tokens, "embed.tokens", embedding), *mine]


def _decoder(spec: Spec, rows: list[WeightRule], tokens: str) -> tuple[Spec, list[WeightRule]]:
    """Its attention to the encoder's result is kept, so that nothing of a checkpoint is lost."""
    layers = tuple(replace(layer, cross=Unused(layer.cross)) for layer in spec.layers)
    mine = [row for row in rows if not row.ours.startswith((ENCODER, "embed.tokens"))]
    return replace(spec, layers=layers, encoder=None, decoder_start=None), [
        WeightRule(tokens, "embed.tokens", embedding),
        *mine,
    ]
