"""Write docs/families.md from the tables that the tests go through: python tests/families_page.py"""

import ast
import os
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")

from variants import KNOWN_GAPS, SCHEMES, VARIANTS
from zoo import FAMILIES, heads_of, model_type

from jaxft.models.heads import KINDS

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "families.md"
TEXT = """# Model families

Every mark below is a test: `python -m pytest tests/test_every_family.py`. It builds a small random model with
transformers, every parameter perturbed, and compares with PyTorch in float32: hidden states and logits within 1e-5 of
the largest, the gradient of every parameter within 1e-4 of that tensor's largest, five texts in one batch (padded on
the right, on the left, two in a row; of models that read images or sounds, three of them) with the same texts alone and
without padding, and the directory that jaxft writes with the one that it has read, tensor by tensor and byte by byte.
Each family's loss and gradients on eight devices are compared with those on one. `python tests/families_page.py` writes
this page.

{families}

A head's name is what `jaxft.load(directory, head=...)` takes. `none` gives hidden states only. Images and sounds load,
compute and save; the other heads have tasks that train them, `seq2seq-lm` those of pre-training only so far.

Not there, though transformers has it: {gaps}.

Rotary positions, within and beyond the length of the training: {schemes}.

Variants of a family that are tested beside its usual form:

{variants}

Weights are read from `model.safetensors`, `pytorch_model.bin` (without PyTorch, and without executing anything),
`flax_model.msgpack` of the former Flax models, and the shards of the first two. A setting of `config.json` that a
family does not read, and that is not what it is by default, ends the loading: the model would not be the one that was
trained. One that transformers does not know either is logged and ignored.

`python -m jaxft.parity --model=DIR` proves of a given directory that jaxft computes what PyTorch does.
"""


def page() -> str:
    heads = [kind for kind in KINDS if any(kind in heads_of(family) for family in FAMILIES)]
    lines = [f"| `model_type` | family | {' | '.join(heads)} |", "|---" * (len(heads) + 2) + "|"]
    for family in FAMILIES:
        marks = ["yes" if head in heads_of(family) else "" for head in heads]
        lines.append(f"| `{model_type(family)}` | {what(family)} | {' | '.join(marks)} |")
    gaps = "; ".join(f"{head} of {model_type(family)}, {why}" for (family, head), why in KNOWN_GAPS.items())
    tested = sorted(VARIANTS.items(), key=lambda item: item[1][0])
    variants = "\n".join(f"- `{model_type(family)}`: {name}" for name, (family, _, _) in tested)
    return TEXT.format(families="\n".join(lines), gaps=gaps, schemes=", ".join(SCHEMES), variants=variants)


def what(family: str) -> str:
    """Its name and paper, from the first line of its file."""
    text = ast.get_docstring(ast.parse((ROOT / "jaxft" / "models" / "families" / f"{family}.py").read_text()))
    return " ".join(text.partition("): ")[0].split()) + ")"


if __name__ == "__main__":
    PAGE.write_text(page())
