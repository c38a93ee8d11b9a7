"""Every family in float64 beside PyTorch in float64: the formulas are the same, without any rounding to judge.

The reference keeps float32 numbers, so that 6e-8 of the largest is what equal ones differ by.
"""

import jax
import jax.numpy as jnp
import pytest
from zoo import FAMILIES, heads_of, make

import jaxft
from jaxft.parity_check.compare import FORMULA, Check, checks_of, compare, reference_texts
from jaxft.parity_check.inputs import reference_job
from jaxft.parity_check.reference import Job, reference

HEADS = ("causal-lm", "masked-lm", "seq2seq-lm", "image-classification", "sequence-classification")
LIMIT = 1e-7  # 50 times less than what float32 is judged by
TABLES = 4e-7  # sines of PyTorch's that are made in float32
# MPNet numbers places by token 1, whatever config.json says, which stands for padding here in no other family.
MORE = {"mpnet": {"pad_token_id": 1}}


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_the_formulas_are_pytorchs(family, tmp_path, one_device):
    head = next(head for head in HEADS if head in heads_of(family))
    make(family, head, tmp_path, **MORE.get(family, {}))
    model = jaxft.load(str(tmp_path))
    texts = reference_texts(numbers := reference(Job(**reference_job(model, [], 0))))
    with jax.enable_x64(True):
        checks = checks_of(texts, model, numbers, jnp.float64)
    limit = TABLES if family == "m2m_100" else LIMIT
    worst = max(checks, key=lambda check: check.difference)
    assert worst.difference < limit, worst
    assert len(checks) > 10 and {"logits", "loss"} <= {check.what for check in checks}


def test_float64_decides_where_float32_rounds(tmp_path, one_device, monkeypatch):
    """Where one difference is more than twice PyTorch's own, jaxft computes again in float64."""
    make("llama", "causal-lm", tmp_path)
    model = jaxft.load(str(tmp_path))
    numbers = reference(Job(**reference_job(model, [], 0)))
    assert all(check.exact is None for check in compare(model, numbers))
    for kind in ("hidden", "logits", "loss", "gradient"):
        monkeypatch.setitem(compare.__globals__["TOLERANCES"], kind, 5e-7)
    less = {name: value / 8 if name.startswith("own.") else value for name, value in numbers.items()}
    checks = compare(model, less)
    rounded = [check for check in checks if check.difference > check.limit]
    assert rounded and all(check.holds and check.exact < LIMIT for check in rounded)


@pytest.mark.parametrize(
    ("difference", "exact", "holds"),
    [
        (2.9e-5, 0.9 * FORMULA * 1e-5, True),
        (2.9e-5, 1.1 * FORMULA * 1e-5, False),  # another formula
        (1.1e-4, 1e-8, False),  # products in TF32 round 8,192 times as coarsely as float32
        (float("nan"), 1e-8, False),
        (1e-6, None, True),
        (2.9e-5, None, False),
        (2.9e-5, float("nan"), False),
    ],
)
def test_what_holds(difference, exact, holds):
    assert Check("x", difference, 1e-6, 1e-5, exact).holds == holds
