"""The structure of the code: who may import whom, where a family's name may stand, how far it is to the gradient."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "jaxft"
FILES = sorted(PACKAGE.rglob("*.py"))
FAMILIES = [file.stem for file in sorted((PACKAGE / "models" / "families").glob("*.py")) if file.stem != "__init__"]

# What a part of the package may import of jaxft; the longest prefix counts.
LEAVES = {"problems", "configurable", "paths", "ranges"}
ALLOWED = {
    "problems": set(),
    "configurable": {"problems"},
    "paths": {"problems"},
    "ranges": {"configurable"},
    "metrics": {"metrics", "spans"},
    "entities": {"metrics.declared"},
    "pictures": {"metrics"},
    "spans": {"metrics.declared"},
    "graphemes": set(),
    "swaps": {"data", "problems"},
    "counterfactual": {"strict_json", "answers", "output_file", "swaps", "tasks.labels", "tasks.template", "problems"},
    "startup": set(),
    "signals": {"problems"},
    "host_memory": set(),
    "torch_free": set(),
    "strict_json": set(),
    "output_file": {"problems"},
    "parallel": {"strict_json", "parallel.peers", "problems", "signals"},
    "models": {"models", "parallel", "problems", "strict_json"},
    "models.families": {
        *(f"models.{name}" for name in "spec parts attention distances dropout experts rotary heads hf".split()),
        *(f"models.{name}" for name in "signals sinusoids".split()),
        "problems",
    },
    "data": {"data", "configurable", "problems", "ranges", "strict_json"},
    "tasks": {
        *(
            f"tasks.{name}"
            for name in "base joined labels long_texts sentences shares targets template tokens vectors words".split()
        ),
        *("tasks.label_sets", "tasks.lists"),
        "inference.settings",
        *("tasks.classify", "tasks.mlm"),  # of which other tasks are made
        *"models.model metrics entities graphemes pictures spans configurable problems ranges".split(),
    },
    "tasks.vectors": {
        "inference.settings",
        "tasks.base",
        "tasks.template",
        "models.embedding",
        "models.heads",
        "models.model",
        "models.parts",
        "metrics",
        "problems",
    },
    "tasks.embed": {"tasks.labels", "tasks.template", "tasks.vectors", "models.heads", "metrics", *LEAVES},
    "inference": {"inference", "tasks.choose", "tasks.template", "configurable", "problems", "ranges", "strict_json"},
    "tune": LEAVES,
    "optim": {"models.model", "models.params", *LEAVES},
    "loop.step": {"metrics"},
    "loop.evals": {"metrics"},
    "loop": {
        *"loop models data tasks.base optim.base parallel metrics config assets host_memory torch_free signals".split(),
        *"inference.settings strict_json output_file".split(),
        *LEAVES,
    },
    # The Trainer's side of a comparison: PyTorch's process has nothing of JAX in it.
    "benchmark.trainer": {"benchmark.job", "benchmark.loading", "host_memory"},
    "benchmark.loading": {"host_memory"},
    "benchmark.job": set(),
    "benchmark": {
        *"benchmark loop models data optim.adamw config command api host_memory".split(),
        *LEAVES,
    },
    # PyTorch's side of a proof, likewise.
    "proof.reference": set(),
    "proof": {"strict_json", "proof", "models", "api", "problems"},
    "attribution": {
        "output_file",
        "strict_json",
        "inference.inputs",
        *"attribution api answers assets graphemes models spans parallel.mesh problems".split(),
        *("tasks.answer", "tasks.words", "loop.page"),
        "tasks.labels",
    },
    "checks": {"config", *LEAVES},
    "config": {
        *"checks strict_json output_file data.rows tune.full optim.adamw optim.schedule".split(),
        *LEAVES,
    },
    "config_file": {"config", "startup", *LEAVES},
    "overrides": {"config", *LEAVES},
    "command": {"config", "config_file", "overrides", "host_memory", "torch_free", "signals", *LEAVES},
}


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


def imports(file: Path) -> set[str]:
    """Modules of jaxft that a file imports anywhere, without the leading `jaxft.`."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module == "jaxft":
            found |= {f"jaxft.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found.add(node.module)
    return {name.removeprefix("jaxft.") for name in found if name.startswith("jaxft.")}


def under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_imports_follow_the_arrows(file):
    module = module_of(file)
    part = max((name for name in ALLOWED if under(module, name)), key=len, default=None)
    if part is None:  # the commands, the Python interface: they may use everything but the step's inside
        assert module in COMMANDS | {"__init__", "api", "answers", "answer_files", "leaderboard", "assets", ""}, (
            f"add {module} to ALLOWED"
        )
        return
    bad = [name for name in imports(file) if not any(under(name, allowed) for allowed in ALLOWED[part])]
    if part == "models.families":
        others = [name for name in bad if under(name, "models.families")]
        assert len(others) <= 1, "a family may borrow from one other"
        bad = [name for name in bad if name not in others]
    assert not bad, f"{module} imports {bad}"


COMMANDS = {"train", "evaluate", "predict", "export", "bench", "bias", "parity", "suite", "explain"}


@pytest.mark.parametrize("file", [f for f in FILES if module_of(f) in COMMANDS], ids=module_of)
def test_commands_are_thin(file):
    functions = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)]
    assert [function.name for function in functions] == ["main"]
    assert functions[0].end_lineno - functions[0].lineno < 30


def test_data_and_leaves_import_no_jax():
    for file in FILES:
        module = module_of(file)
        if under(module, "data") or module in LEAVES | {"config", "checks", "command", "config_file", "overrides"}:
            assert not re.search(r"^\s*(import jax\b|from jax\b|import flax|from flax)", file.read_text(), re.M), module


def test_torch_is_for_tests_only():
    """And for what jaxft is compared with: the Trainer's speed, transformers' numbers."""
    for file in (f for f in FILES if module_of(f) not in ("benchmark.trainer", "proof.reference")):
        assert not re.search(r"^\s*(import|from) torch\b", file.read_text(), re.M), module_of(file)


NAMES = set(FAMILIES) - {"opt", "clip"}  # which are also what Optax calls its state, and what is done to gradients
FILE_NAMES = ("sentence_bert_config.json",)  # of other libraries, whatever the family


@pytest.mark.parametrize("file", [f for f in FILES if "families" not in f.parts], ids=module_of)
def test_a_familys_name_stands_in_its_own_file(file):
    """In names and strings of code; comments and docstrings may cite a paper or a model."""
    tree = ast.parse(file.read_text())
    docstrings = {
        ast.get_docstring(node, clean=False)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
    }
    for token in tokenize.generate_tokens(io.StringIO(file.read_text()).readline):
        if token.type not in (tokenize.NAME, tokenize.STRING):
            continue
        if token.type == tokenize.STRING and token.string.strip("\"'") in FILE_NAMES:
            continue
        if token.type == tokenize.STRING and token.string.strip("\"'rbf") in {d.strip("\"'") for d in docstrings if d}:
            continue
        words = re.findall(r"[a-z0-9]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", token.string).lower())
        assert not set(words) & NAMES, f"{file}:{token.start[0]}: {token.string}"


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_files_and_functions_are_short(file):
    text = file.read_text()
    assert len(text.splitlines()) <= 300
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            assert node.end_lineno - node.lineno < 60, f"{node.name} is {node.end_lineno - node.lineno + 1} lines long"
    assert ast.get_docstring(ast.parse(text)), "every file says in its first line what it is for"
    assert file.stem not in ("utils", "util", "helpers", "common", "misc")


def calls(file: str, function: str) -> set[str]:
    """Names that a function calls, now or through `partial`."""
    tree = ast.parse((PACKAGE / file).read_text())
    body = next(node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef) and node.name == function)
    names = set()
    for node in ast.walk(body):
        if isinstance(node, ast.Call):
            hands_over = ast.unparse(node.func) == "partial"
            names.add(ast.unparse(node.args[0] if hands_over else node.func))
    return names


def test_three_hops_from_command_to_gradient():
    assert "fit" in calls("train.py", "main")
    assert {"train_step", "run.training.step"} <= calls("loop/fit.py", "fit")
    assert "train_step" in calls("loop/training.py", "step")
    assert "batch_gradient" in calls("loop/training.py", "gradient")  # what it jits
    assert "accumulate" in calls("loop/step.py", "batch_gradient")
    assert "jax.grad" in calls("loop/step.py", "accumulate")
