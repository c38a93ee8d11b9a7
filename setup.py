"""Packages of the wheel; pyproject.toml has all else. It cannot give configs/ another name, as is done here."""

from setuptools import find_packages, setup

# The recipes are installed as jaxft/recipes/configs, where jaxft/config/recipes.py looks for them: a package named
# `configs` would hide, or be hidden by, those of other projects.
RECIPES = "jaxft.recipes.configs"

setup(packages=[*find_packages(include=["jaxft*"]), RECIPES], package_dir={RECIPES: "configs"})
