"""Numbers as people read them."""


def human(number: float) -> str:
    """1,234 or 22.7 M or 1.5 G."""
    for scale, unit in ((1e9, "G"), (1e6, "M")):
        if number >= scale:
            return f"{number / scale:.3g} {unit}"
    return f"{number:,.0f}"
