"""Which kernel computes a call of attention."""

import functools
import logging

from jaxft.models.layers.kernels.kernel import AttentionCall, Kernel
from jaxft.models.layers.kernels.tiled import Tiled

log = logging.getLogger("jaxft")

# In order of preference. The last one is the reference and refuses nothing.
KERNELS: tuple[Kernel, ...] = (Tiled(),)


@functools.cache  # once for each kind of call, which is when it is logged
def choose_kernel(call: AttentionCall) -> Kernel:
    """The first of KERNELS that does not refuse the call."""
    for kernel in KERNELS:
        if (reason := kernel.refuses(call)) is None:
            log.debug("attention kernel %s for %s", kernel.name, call)
            return kernel
        log.debug("attention kernel %s refuses %s: %s", kernel.name, call, reason)
    raise AssertionError("the reference kernel refuses nothing")
