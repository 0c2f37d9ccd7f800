"""Numbers in text that anybody may have written."""

from __future__ import annotations


def number(text: str | bytes, most: int = 18) -> int | None:
    """The number that *text* writes with one to *most* decimal digits; ``None`` for other text.

    ``str.isdigit`` alone does not do: it accepts ``²``, which ``int`` refuses, and ``int`` refuses
    more than 4,300 digits (sys.set_int_max_str_digits).
    """
    if not (text.isascii() and text.isdigit() and len(text) <= most):
        return None
    return int(text)
