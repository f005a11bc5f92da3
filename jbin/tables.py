"""Tables for the terminal and for Markdown, and the numbers in them."""

from __future__ import annotations

import math
from collections.abc import Sequence


def amount(n: float) -> str:
  """A number with a unit for reading: 4.22 G, 512."""
  if not math.isfinite(n):
    return str(n)
  for i, unit in enumerate("EPTGMk"):
    size = 1000 ** (6 - i)
    if abs(n) >= size:
      return f"{n / size:.4g} {unit}"
  return f"{n:.4g}"


def align(rows: Sequence[Sequence[str]], sides: str) -> list[str]:
  """Rows as lines with columns of equal width; `sides` is < or > for each."""
  widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
  return [
    "  ".join(
      f"{cell:{side}{n}}"
      for cell, side, n in zip(row, sides, widths, strict=True)
    ).rstrip()
    for row in rows
  ]


def pipes(rows: Sequence[Sequence[str]], sides: str) -> list[str]:
  """A Markdown table; the first row is its head."""
  rule = ["---" if side == "<" else "---:" for side in sides]
  head, *body = [[escaped(cell) for cell in row] for row in rows]
  return [f"| {' | '.join(row)} |" for row in (head, rule, *body)]


def escaped(text: str) -> str:
  """One line that ends no cell and begins no tag or emphasis."""
  for mark in ("\\", "|", "*"):
    text = text.replace(mark, f"\\{mark}")
  return text.replace("\n", " ").replace("<", "&lt;")
