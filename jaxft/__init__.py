"""jaxft: fine-tune Transformers in JAX, from Hugging Face weights to Hugging Face weights."""

from jaxft.host import startup

startup.begin()  # before anything else is imported

from typing import Any  # noqa: E402 (after the call above)

__version__ = "0.1.0"
__all__ = ["explain", "load"]


def __getattr__(name: str) -> Any:
    # Lazy, so that `import jaxft` and `--help` do not wait for JAX.
    if name == "load":
        from jaxft.inference.model import load

        return load
    if name == "explain":  # the module of this name is the command; see its last line
        from jaxft.attribution.explain import explain

        return explain
    raise AttributeError(f"module 'jaxft' has no attribute {name!r}")
