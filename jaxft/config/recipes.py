"""The recipes: the configurations in configs/, which come with jaxft and are found by name from anywhere."""

import ast
from pathlib import Path


def home() -> Path:
    """The folder that holds configs/: jaxft/recipes where jaxft is installed (setup.py), else the checkout."""
    installed = Path(__file__).parents[1] / "recipes"
    return installed if installed.is_dir() else Path(__file__).parents[2]


def recipe(name: str) -> Path:
    """The file of a recipe, which need not exist."""
    return home() / "configs" / f"{name}.py"


def is_recipe(path: Path) -> bool:
    """Whether a file lies in configs/, under whatever path."""
    return path.resolve().is_relative_to((home() / "configs").resolve())


def recipes(function: str) -> dict[str, str]:
    """Name -> title, for all files of configs/ that define `function`: get_config, or get_entries of a suite."""
    found = {}
    for file in sorted((home() / "configs").glob("*.py")):
        tree = ast.parse(file.read_bytes())
        if any(isinstance(node, ast.FunctionDef) and node.name == function for node in tree.body):
            found[file.stem] = (ast.get_docstring(tree) or "").partition("\n")[0]
    return found
