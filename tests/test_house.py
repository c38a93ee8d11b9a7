"""The structure of the code: who may import whom, where a family's name may stand, how far it is to the gradient."""

import ast
import io
import re
import tokenize
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "jaxft"
FILES = sorted(PACKAGE.rglob("*.py"))
FAMILIES = [file.stem for file in sorted((PACKAGE / "models" / "families").glob("*.py")) if file.stem != "__init__"]

# What a part of the package may import of jaxft; the longest prefix counts.
LEAVES = {"problems", "config.component", "config.protocols", "paths", "config.ranges"}
LAYERS = {
    f"models.layers.{name}"
    for name in "activations attention basic context dropout moe patches precision rotary sinusoids".split()
} | {"models.layers.relative_bias", "models.layers.kernels.kernel"}
ALLOWED = {
    "problems": set(),
    "paths": {"problems"},
    "metrics": {"metrics", "text.spans"},
    "text": {"text", "metrics.declared"},
    "host": {"host", "problems"},
    "parallel": {"parallel", "host", "problems"},
    "models.layers": {
        "models.layers",
        "models.batch",
        "models.part",
        "models.checkpoint.config_reader",
        "parallel",
        "problems",
    },
    "models.checkpoint": {"models", "host.strict_json", "parallel", "problems"},
    "models": {"models", "parallel", "problems", "host.strict_json"},
    "models.families": {
        *LAYERS,
        *"models.part models.spec models.heads problems".split(),
        *(f"models.checkpoint.{name}" for name in "weight_table head_rules config_reader".split()),
    },
    "data": {"data", "host.strict_json", "text.graphemes", *LEAVES},
    "tasks": {
        *(
            f"tasks.{name}"
            for name in "base class_weights source_rows special_tokens labels labelled_texts label_sets list_cells "
            "long_texts sentences segment_log_softmax tagging decoder_targets template tokens vectors "
            "word_alignment".split()
        ),
        *"data.data_report data.encoded data.example".split(),
        "inference.settings",
        *("tasks.classify", "tasks.mlm"),  # of which other tasks are made
        *"models.batch models.model models.layers.lm_loss models.checkpoint.sentence_embedding".split(),
        *"metrics text reports.figures".split(),
        *LEAVES,
    },
    "tasks.vectors": {
        *"data.example inference.settings tasks.base tasks.source_rows tasks.template metrics problems".split(),
        *"models.checkpoint.sentence_transformers models.checkpoint.sentence_embedding".split(),
        *"models.heads models.model".split(),
        *"models.batch models.layers.basic models.layers.tokens".split(),
    },
    "tasks.contrastive_embedding": {
        *"data.example tasks.base tasks.labels tasks.source_rows tasks.template tasks.vectors".split(),
        *"models.batch models.model models.heads metrics".split(),
        *LEAVES,
    },
    "inference.settings": {"host.strict_json", *LEAVES},
    "inference": {*"inference adapters models data.example tasks metrics text parallel host".split(), *LEAVES},
    "tune": {"tune", *LEAVES},
    "adapters": {*"adapters tune.base config models host.strict_json".split(), *LEAVES},
    "quantization": {"quantization", "adapters.adapted", "models", *LEAVES},
    "optim": {
        "optim",
        "models.model",
        "models.params",
        "quantization.dynamic_map",
        "quantization.rounded_product",
        *LEAVES,
    },
    "training.step": {"metrics", "models.batch", "models.params", "models.model", "tasks.base"},
    "training.fit": {*"training inference.model data.memory reports config host.defaults".split(), *LEAVES},
    "training": {
        *"training adapters quantization evaluation reports models data tasks.base optim.base".split(),
        *("parallel", "metrics", "config", "host", "inference.settings", "tune.learning_rate", *LEAVES),
    },
    "evaluation.evaluate": {"metrics", "models.batch", "data.encoded", "tasks.base"},
    "evaluation": {
        *"evaluation training reports data metrics models.batch tasks.base config inference host".split(),
        *LEAVES,
    },
    "sweeps": {*"sweeps training data.folds config metrics reports assets host".split(), *LEAVES},
    "reports.figures": {"metrics"},
    "reports": {*"reports assets models metrics host inference.settings training.disk_space".split(), *LEAVES},
    # The Trainer's side of a comparison: PyTorch's process has nothing of JAX in it.
    "benchmark.trainer": {"benchmark.job", "benchmark.loading", "host.memory"},
    "benchmark.loading": {"host.memory"},
    "benchmark.job": {"data.encoded"},  # for annotations
    "benchmark": {
        *"benchmark training evaluation tasks.mlm models data optim.adamw config cli inference.model host".split(),
        *LEAVES,
    },
    # PyTorch's side of a proof, likewise.
    "parity_check.reference": set(),
    "parity_check": {
        *"parity_check models inference.arguments inference.model host.strict_json problems".split(),
    },
    "drafts": {
        *"drafts config data tune.learning_rate host models.checkpoint.tokenizer".split(),
        *("tasks.labels", "tasks.list_cells", "tasks.template"),
        *LEAVES,
    },
    "attribution": {
        *"attribution inference models text parallel.mesh host assets reports.page reports.format problems".split(),
        *("tasks.question_answering", "tasks.word_alignment", "tasks.labels"),
    },
    "fairness": {
        *"fairness data inference host metrics.decisions models.heads models.model tasks.labels".split(),
        *("tasks.template", "problems"),
    },
    "config": {"config", "data.batching", "tune.full", "optim.adamw", "optim.schedule", "host", *LEAVES},
    "cli": {"cli", "config", "host", *LEAVES},
}


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__")


MODULES = {f"jaxft.{module_of(file)}" for file in FILES}


def imports(file: Path) -> set[str]:
    """Modules of jaxft that a file imports anywhere, without the leading `jaxft.`."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found |= {name if name in MODULES else node.module for name in names}
    return {name.removeprefix("jaxft.") for name in found if name.startswith("jaxft.")}


def under(name: str, prefix: str) -> bool:
    return name == prefix or name.startswith(prefix + ".")


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_imports_follow_the_arrows(file):
    module = module_of(file)
    part = max((name for name in ALLOWED if under(module, name)), key=len, default=None)
    if part is None:  # the commands, the Python interface: they may use everything but the step's inside
        assert module in COMMANDS | {"__init__", "__main__", "assets", ""}, f"add {module} to ALLOWED"
        return
    bad = [name for name in imports(file) if not any(under(name, allowed) for allowed in ALLOWED[part])]
    if part == "models.families":
        others = [name for name in bad if under(name, "models.families")]
        assert len(others) <= 1, "a family may borrow from one other"
        bad = [name for name in bad if name not in others]
    assert not bad, f"{module} imports {bad}"


def for_types_only(file: Path) -> set[str]:
    """Modules that a file imports under `if TYPE_CHECKING:`, where nothing is run."""
    blocks = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.If)]
    inside = [line for node in blocks if ast.unparse(node.test) == "TYPE_CHECKING" for line in node.body]
    return {line.module.removeprefix("jaxft.") for line in inside if isinstance(line, ast.ImportFrom)}


def test_no_import_cycles():
    """Imports inside functions count; annotations of a module that imports this one do not."""
    graph = {module_of(file): imports(file) - for_types_only(file) - {module_of(file)} for file in FILES}
    TopologicalSorter(graph).prepare()  # raises CycleError, which lists the modules


COMMANDS = {
    *"new train sweep evaluate predict export bench bias parity suite explain search".split(),
}


@pytest.mark.parametrize("file", [f for f in FILES if module_of(f) in COMMANDS], ids=module_of)
def test_commands_are_thin(file):
    functions = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)]
    assert [function.name for function in functions] == ["main"]
    assert functions[0].end_lineno - functions[0].lineno < 30


def test_data_and_leaves_import_no_jax():
    for file in FILES:
        module = module_of(file)
        if under(module, "data") or under(module, "config") or under(module, "cli") or module in LEAVES:
            assert not re.search(r"^\s*(import jax\b|from jax\b|import flax|from flax)", file.read_text(), re.M), module


def test_torch_is_for_tests_only():
    """And for what jaxft is compared with: the Trainer's speed, transformers' numbers."""
    for file in (f for f in FILES if module_of(f) not in ("benchmark.trainer", "parity_check.reference")):
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


def functions_of(file: Path) -> list[ast.FunctionDef]:
    return [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)]


def test_functions_fit_a_screen():
    """Nine in ten have at most 25 lines, none more than 60."""
    lengths = sorted(
        (node.end_lineno - node.lineno + 1, f"{module_of(file)}.{node.name}")
        for file in FILES
        for node in functions_of(file)
    )
    assert lengths[len(lengths) * 9 // 10][0] <= 25
    assert lengths[-1][0] <= 60, lengths[-1]


@pytest.mark.parametrize("file", FILES, ids=module_of)
def test_a_file_has_one_noun(file):
    text = file.read_text()
    assert len(text.splitlines()) <= 400
    assert ast.get_docstring(ast.parse(text)), "every file says in its first line what it is for"
    assert file.stem not in ("utils", "util", "helpers", "common", "misc")


def test_formatting_is_switched_off_with_a_reason():
    for file in FILES:
        for line in file.read_text().splitlines():
            assert not re.search(r"# fmt: (skip|off)\s*$", line), f"{module_of(file)}: {line}"


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


def test_hops_from_command_to_gradient():
    """main -> fit -> train -> train_step -> batch_gradient -> accumulate -> jax.grad: six calls."""
    assert "fit" in calls("train.py", "main")
    assert "train" in calls("training/fit.py", "fit")
    assert {"train_step", "run.training.step"} <= calls("training/loop.py", "train")
    assert "train_step" in calls("training/compiled.py", "step")
    assert "batch_gradient" in calls("training/step.py", "train_step") | calls("training/compiled.py", "gradient")
    assert "accumulate" in calls("training/step.py", "batch_gradient")
    assert "jax.grad" in calls("training/step.py", "accumulate")


def defined(module: str, name: str) -> str:
    """The module in which a name that `module` has is defined: another one, if it only passes it on."""
    file = PACKAGE / (module.removeprefix("jaxft.").replace(".", "/") + ".py")
    file = file if file.exists() else file.with_suffix("") / "__init__.py"
    for node in ast.walk(ast.parse(file.read_text())):
        if (
            isinstance(node, ast.ImportFrom)
            and node.module
            and name in [alias.asname or alias.name for alias in node.names]
        ):
            return defined(node.module, name) if node.module.startswith("jaxft") else module
    return module


def test_a_shared_name_means_one_thing():
    """A name that modules import from others is defined in one of them only; family files have the same names."""
    found = {}
    for file in FILES:
        if file == PACKAGE / "__init__.py":
            continue  # it passes on what configurations name, the schedule Linear among them
        for node in ast.walk(ast.parse(file.read_text())):
            if (
                isinstance(node, ast.ImportFrom)
                and (node.module or "").startswith("jaxft")
                and "families" not in node.module
            ):
                for alias in node.names:
                    if f"{node.module}.{alias.name}" not in MODULES:
                        found.setdefault(alias.name, set()).add(defined(node.module, alias.name))
    assert not {name: modules for name, modules in found.items() if len(modules) > 1}
