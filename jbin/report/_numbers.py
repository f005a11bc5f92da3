"""Numbers as people read them."""

from __future__ import annotations

import math

NONE = "–"
_UNITS = ("", "k", "M", "G", "T", "P", "E")


def short(n: float) -> str:
  """Three digits and a decimal prefix: 4.22 G."""
  return _scaled(n, "")


def tick(n: float) -> str:
  """As `short`, without zeros that say nothing: 20 M."""
  digits, _, prefix = short(n).partition(" ")
  return f"{float(digits):g} {prefix}".rstrip()


def size(n: float) -> str:
  """A number of bytes: 6.45 MB."""
  return _scaled(n, "B")


def seconds(n: float) -> str:
  """A time: 12.3 µs."""
  return _small(n, "s")


def joules(picojoules: float) -> str:
  """An energy: 111 µJ."""
  return _small(picojoules * 1e-12, "J")


def _small(n: float, unit: str) -> str:
  if not n or n >= 1:
    return _scaled(n, unit)
  power, prefix = next(
    (p, prefix)
    for p, prefix in ((1e-3, "m"), (1e-6, "µ"), (1e-9, "n"), (1e-12, "p"))
    if n >= p * 0.9995 or p == 1e-12
  )
  n /= power
  return f"{n:.{_decimals(n)}f} {prefix}{unit}"


def _scaled(n: float, unit: str) -> str:
  power = 0
  # 999.5 would print as 1000 with three digits: it is 1 of the next unit.
  while abs(n) >= 999.5 and power < len(_UNITS) - 1:
    n /= 1000
    power += 1
  digits = 0 if power == 0 and float(n).is_integer() else _decimals(n)
  return f"{n:.{digits}f} {_UNITS[power]}{unit}".rstrip()


def _decimals(n: float) -> int:
  return 2 if abs(n) < 9.995 else 1 if abs(n) < 99.95 else 0


def exact(n: float) -> str:
  """All digits, grouped by commas."""
  return f"{int(n):,}" if float(n).is_integer() else f"{n:,.2f}"


def percent(share: float | None) -> str:
  """98.61 %, for a share in [0, 1]; a dash for None, NaN spelt out."""
  if share is None:
    return NONE
  return "not finite" if not math.isfinite(share) else f"{100 * share:.2f} %"


def fixed(x: float | None, decimals: int) -> str:
  """1.992, for 3 decimals; a dash for None, NaN spelt out."""
  if x is None:
    return NONE
  return "not finite" if not math.isfinite(x) else f"{x:.{decimals}f}"


def value(x: float | None) -> str:
  """Four significant digits; a dash for None, NaN spelt out."""
  if x is None:
    return NONE
  return "not finite" if not math.isfinite(x) else f"{x:.4g}"


def ratio(whole: float, part: float) -> str:
  """How many times `part` fits into `whole`: 878x."""
  if not part or not whole:
    return NONE
  n = whole / part
  return f"{n:,.{_decimals(n)}f}x" if n != 1 else "1x"


def pair(bits: tuple[int, int]) -> str:
  """1x1 with a multiplication sign."""
  return f"{bits[0]}×{bits[1]}"
