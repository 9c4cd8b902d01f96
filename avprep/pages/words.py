"""Text and numbers in the form shown on pages."""

from __future__ import annotations

from collections.abc import Collection

SHOWN = 160
"""Maximum characters shown of a key or a setting."""


def words(value: object, limit: int = SHOWN) -> str:
    """Return untrusted text for a page: one line, cut, with invisible characters escaped; templates escape HTML."""
    plain = str(value)
    plain = plain if len(plain) <= limit else f"{plain[: limit - 1]}…"
    return plain if plain.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in plain)


def escaped(text: str, missing: Collection[str]) -> str:
    """Return a text in which the characters that a font lacks are escapes, such as `\\u4f60`."""
    return "".join(ascii(one)[1:-1] if one in missing else one for one in text)


def count(n: int, noun: str) -> str:
    """Return a count with its noun, such as `3 clips`."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def number(value: float, unit: str = "") -> str:
    """Return a number with about three digits, a proper minus sign and its unit."""
    digits = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    digits = "0" if digits in ("-0", "0") else digits.replace("-", "−")
    return f"{digits} {unit}".rstrip()
