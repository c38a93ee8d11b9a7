"""The recipes: configurations that come with jaxft, found by name from anywhere (jaxft/config/recipes.py)."""
