"""FP4, a four-bit float: a sign, two bits of exponent and one of mantissa."""

from jaxft.config.component import config
from jaxft.quantization.four_bit import BlockSize, FourBit

POSITIVE = (0.0, 0.0052083334885537624, 0.6666666865348816, 1.0, 0.3333333432674408, 0.5, 0.1666666716337204, 0.25)
VALUES = (*POSITIVE, 0.0, *(-value for value in POSITIVE[1:]))  # bitsandbytes' get_4bit_type


@config
class FP4:
    """Linear maps of frozen layers in four-bit floats. NF4 loses less of most weights."""

    block: BlockSize = 64  # weights that share a scale, their largest magnitude
    double: bool = True  # hold the scales in eight bits, too: 0.516 instead of 0.563 byte a weight

    def part(self) -> FourBit:
        """See base.py."""
        return FourBit(VALUES, self.block, self.double)
