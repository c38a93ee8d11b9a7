"""NF4, the four-bit normal float (Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs", section 3)."""

from jaxft.config.component import config
from jaxft.quantization.four_bit import BlockSize, FourBit

# Appendix E: quantiles of the normal distribution, with an exact 0.
VALUES = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)


@config
class NF4:
    """Linear maps of frozen layers in four bits: QLoRA's numbers, quantiles of the normal distribution."""

    block: BlockSize = 64  # weights that share a scale, their largest magnitude
    double: bool = True  # hold the scales in eight bits, too: 0.516 instead of 0.563 byte a weight

    def part(self) -> FourBit:
        """See base.py."""
        return FourBit(VALUES, self.block, self.double)
