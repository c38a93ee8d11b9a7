"""Mutated files and settings, and values of any kind: numbers that are right or a message, no traceback, no hang."""

import json
import os

import fuzz as mutate
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from jaxft.data import Data
from jaxft.host import strict_json
from jaxft.models.checkpoint.pretrained import architecture, open_pretrained
from jaxft.problems import UserError

# The same examples each time; FUZZ=5000 in the environment: so many new ones.
MORE = os.environ.get("FUZZ")
fuzz = settings(
    max_examples=int(MORE or 150),
    derandomize=not MORE,
    database=None,
    deadline=5000,  # milliseconds
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def test_mutations_end_in_numbers_or_in_a_message(tmp_path):
    """Of models, data, flags and work directories; `python tests/fuzz.py --n=10000 --seed=1` does more of them."""
    mutate.make_files(tmp_path)
    assert mutate.run(tmp_path, 0, range(int(MORE or 200))) == []


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@fuzz
@given(rows=st.lists(st.dictionaries(st.sampled_from(["text", "label", "more"]), JSON), min_size=1, max_size=5))
@example(rows=[{"text": 2**70}])
@example(rows=[{"text": "\ud800"}])
@example(rows=[{"more": {"a": None}}, {"more": {"a": [1]}}, {"more": None}])
def test_values_come_back_or_are_refused(tmp_path, rows):
    """What is read equals what was written; a value that no column can hold is refused with its row."""
    path = tmp_path / "values.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    try:
        read = Data(path=str(path)).open()[:]
    except UserError as error:
        assert "values.jsonl" in str(error)
        return
    assert len(read) == len(rows)
    for ours, theirs in zip(read, rows, strict=True):
        for key in ("text", "label", "more"):
            assert same(ours.get(key), theirs.get(key))
            assert isinstance(ours.get(key), bool) == isinstance(theirs.get(key), bool)


def same(ours, theirs) -> bool:
    """Equal, where keys that another row has may be added as None, and a number in a list may have become a float."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        return all(same(ours.get(key), theirs.get(key)) for key in ours.keys() | theirs.keys())
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return ours == theirs


@fuzz
@given(text=st.text() | st.binary())
@example(text="[" * 100_000)
@example(text='{"a": 1, "a": 2}')
@example(text="[NaN]")
@example(text="1" * 5000)
def test_strict_json_reads_what_the_standard_has(text):
    try:
        value = strict_json.parse(text)
    except ValueError:
        return
    assert json.loads(json.dumps(value, allow_nan=False)) == value


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama"])
@fuzz
@given(data=st.data())
def test_settings_of_any_kind(families, tmp_path, family, data):
    """config.json with any value for any of its settings."""
    raw = json.loads((families[family] / "config.json").read_text())
    name = data.draw(st.sampled_from(sorted(raw)))
    odd = st.sampled_from([None, True, -1, 0, 1.5, 1e300, 10**12, "x", [], {}, [1], {"a": 1}])
    (tmp_path / "config.json").write_text(json.dumps(raw | {name: data.draw(odd | JSON)}))
    try:
        arch = architecture(open_pretrained(str(tmp_path)))
    except UserError as error:
        assert name.removesuffix("s") in str(error) or "refused by transformers" in str(error)
        return
    assert arch.spec.width > 0 and 0 < len(arch.spec.layers) <= 10_000
