"""Every family's numbers against PyTorch's in tests/goldens, in a process in which `import torch` fails."""

import subprocess
import sys

import goldens
import pytest

from jaxft.models.checkpoint.pretrained import family_names

FILES = [file.stem for file in sorted(goldens.FOLDER.glob("*.npz"))]
WITHOUT_TORCH = """
import sys
sys.modules["torch"] = None
sys.path.insert(0, "tests")
import goldens
sys.exit(goldens.check())
"""


@pytest.fixture(scope="module")
def differences() -> dict[str, float]:
    """Golden -> jaxft's relative difference from it."""
    root = goldens.FOLDER.parent.parent
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH], cwd=root, capture_output=True, text=True)
    lines = [line.split() for line in done.stdout.splitlines()]
    found = {name: float(difference) for name, difference, *_ in lines}
    assert found.keys() == set(FILES), done.stderr
    return found


def test_every_family_has_a_golden():
    assert {name.partition("-")[0] for name in FILES} == set(family_names())


@pytest.mark.parametrize("name", FILES)
def test_a_golden(name, differences):
    assert differences[name] < goldens.TOLERANCE
