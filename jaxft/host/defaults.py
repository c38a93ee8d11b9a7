"""Settings of JAX and transformers that jaxft chooses where the user has not: they are read from the environment."""

import os
import sys


def set_environment() -> None:
    """Sets the environment variables that the user has not set. To be called before JAX and transformers are imported;
    where JAX is imported already, its configuration gets the same values."""
    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    chosen = {
        "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",  # about the missing PyTorch, which is intended
        "JAX_COMPILATION_CACHE_DIR": os.path.join(cache, "jaxft", "compiled"),  # so that later starts need not compile
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.2",
    }
    new = {name: value for name, value in chosen.items() if name not in os.environ}
    os.environ.update(new)
    jax = sys.modules.get("jax")
    if jax is None or "JAX_COMPILATION_CACHE_DIR" not in new or jax.config.jax_compilation_cache_dir is not None:
        return
    jax.config.update("jax_compilation_cache_dir", chosen["JAX_COMPILATION_CACHE_DIR"])
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" in new:
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
