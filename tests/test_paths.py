"""Patterns over parameter paths select what they say and nothing beside it."""

import pytest

from jaxft import paths

NAMES = [f"layers.{layer}.{part}" for layer in range(12) for part in ("attn.q.kernel", "mlp.up.kernel")]
NAMES += ["embed.tokens.embedding", "head.dense.kernel"]


@pytest.mark.parametrize(
    "pattern, path, expected",
    [
        ("layers.1", "layers.1.attn.q.kernel", True),
        ("layers.1", "layers.10.attn.q.kernel", False),
        ("layers.1", "layers.1", True),
        ("layer", "layers.1", False),
        ("attn", "layers.1.attn.q.kernel", False),
        (r".*attn.*", "layers.1.attn.q.kernel", True),
        (r".*\.kernel", "layers.1.attn.q.kernel", True),
        (r"layers\.(1|10)\.attn", "layers.10.attn.q.kernel", True),
        ("head", "head.dense.kernel", True),
        ("head", "header.dense.kernel", False),
    ],
)
def test_match(pattern, path, expected):
    assert paths.match(pattern, path) is expected


def test_select_takes_whole_components():
    assert paths.select(["layers.1"], NAMES) == {"layers.1.attn.q.kernel", "layers.1.mlp.up.kernel"}
    assert paths.select([], NAMES) == set()


def test_the_first_match_wins():
    table = (("layers.1", 0.5), ("layers", 2.0))
    assert [paths.lookup(table, f"layers.{i}.attn.q.kernel", 1.0) for i in (1, 10)] == [0.5, 2.0]
    assert paths.lookup(table, "embed.tokens.embedding", 1.0) == 1.0


def test_patterns_that_match_nothing_are_problems():
    found = paths.unmatched_problems(["layers.3", "layer.3", "(x", "heads"], NAMES, "tune.train")
    assert len(found) == 3
    assert found[0].startswith("tune.train: the pattern 'layer.3' matches no parameter. Near names: layers.3")
    assert "is not a regular expression" in found[1]
    assert "Near names: head" in found[2]
    assert "There are no parameters" in paths.unmatched_problems(["a"], [], "x")[0]
