"""Text and numbers as pages show them."""

from __future__ import annotations

SHOWN = 160
"""Characters shown of a key or a setting."""


def words(value: object, limit: int = SHOWN) -> str:
    """Return untrusted text for a page: on one line, cut, nothing invisible; templates escape it."""
    plain = str(value)
    plain = plain if len(plain) <= limit else f"{plain[: limit - 1]}…"
    return plain if plain.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in plain)


def count(n: int, noun: str) -> str:
    """Return a number of things."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def number(value: float, unit: str = "") -> str:
    """Return a number with three digits or so, a proper minus sign and its unit."""
    digits = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    digits = "0" if digits in ("-0", "0") else digits.replace("-", "−")
    return f"{digits} {unit}".rstrip()
