"""jaxft: fine-tune Transformers in JAX, from Hugging Face weights to Hugging Face weights."""

__version__ = "0.1.0"
__all__ = ["load"]


def __getattr__(name):
    # Lazily, so that `import jaxft` and `--help` do not wait for JAX.
    if name == "load":
        from jaxft.api import load

        return load
    raise AttributeError(f"module 'jaxft' has no attribute {name!r}")
