"""The layer table of the page: one line for each layer and each module."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jbin.report import _numbers

# What the table and the drawing of modules sum up.
METRICS = ("MACs", "ACE", "Bytes")


@dataclasses.dataclass
class Node:
  """A module, or a layer: then `layer` is its row of the cost report."""

  name: str
  # Its whole path.
  layer: Mapping[str, Any] | None = None
  order: int = 0
  # Of execution; a module's is that of its first layer.
  amounts: tuple[float, float, float] = (0, 0, 0)
  # As METRICS.
  children: list[Node] = dataclasses.field(default_factory=list["Node"])

  def walk(self, depth: int = -1) -> Iterator[tuple[int, Node]]:
    """The nodes below this one and their depths, modules before their parts."""
    if depth >= 0:
      yield depth, self
    for child in self.children:
      yield from child.walk(depth + 1)

  @property
  def leaves(self) -> int:
    """Layers in it."""
    return sum(child.leaves for child in self.children) or 1


@dataclasses.dataclass(frozen=True)
class Row:
  """A line of the table; a module has no kernel, shapes or bits."""

  name: str
  depth: int
  order: int
  module: bool
  kind: str
  # "conv 3×3×64×64": what it is, and the shape of its weight.
  shapes: str
  phase: str
  bits: str
  tone: str
  macs: float
  ace: float
  share: float
  # Of the run's ACE.
  bytes: float
  flagged: bool


def tone(lhs: int, rhs: int) -> str:
  """The class of the colour of a bit pair, by its product lhs * rhs."""
  for wide in (1, 2, 4, 8, 16):
    if lhs * rhs <= wide * wide:
      return f"b{wide}"
  return "b32"


def tree(layers: Sequence[Mapping[str, Any]]) -> Node:
  """The modules of the layers' paths, in the order of execution.

  A module with one part is left out: the part says its whole path.
  """
  root = Node("")
  modules: dict[tuple[str, ...], Node] = {(): root}
  for i, layer in enumerate(layers):
    *path, _ = str(layer["name"]).split("/")
    above = root
    for depth in range(1, len(path) + 1):
      key = tuple(path[:depth])
      if key not in modules:
        modules[key] = Node("/".join(key), order=i)
        above.children.append(modules[key])
      above = modules[key]
    above.children.append(Node(str(layer["name"]), layer, i, amounts(layer)))
  root.children = [_merged(child) for child in root.children]
  root.amounts = _sum(root.children)
  return root


def _merged(node: Node) -> Node:
  if node.layer is not None:
    return node
  node.children = [_merged(child) for child in node.children]
  if len(node.children) == 1:
    return node.children[0]
  node.amounts = _sum(node.children)
  return node


def _sum(nodes: Sequence[Node]) -> tuple[float, float, float]:
  macs, ace, size = (sum(n.amounts[i] for n in nodes) for i in range(3))
  return macs, ace, size


def amounts(layer: Mapping[str, Any]) -> tuple[float, float, float]:
  """MACs, ACE and bytes of weights of a layer of the JSON report."""
  lhs, rhs, macs = (int(layer[key]) for key in ("lhs_bits", "rhs_bits", "macs"))
  size = layer.get("weight_bytes", int(layer["weights"]) * rhs / 8)
  return macs, int(layer.get("ace", macs * lhs * rhs)), float(size)


def rows(top: Node, flagged: Sequence[str], most: int) -> list[Row]:
  """The lines of the table: the first `most` layers, and whole modules."""
  marked = frozenset(flagged)
  return [
    _row(node, depth, top.amounts[1], marked)
    for depth, node in top.walk()
    if node.order < most
  ]


def _row(node: Node, depth: int, ace: float, flagged: frozenset[str]) -> Row:
  layer = node.layer or {}
  pair = int(layer.get("lhs_bits", 0)), int(layer.get("rhs_bits", 0))
  count = node.leaves
  kind = f"{layer.get('kind')} {shape(layer.get('kernel'))}".replace("_", " ")
  repeats = int(layer.get("repeats", 1))
  kind += f", {repeats:,} times" if repeats > 1 else ""
  ways = f"{shape(layer.get('in_shape'))} → {shape(layer.get('out_shape'))}"
  return Row(
    name=node.name,
    depth=depth,
    order=node.order,
    module=node.layer is None,
    kind=kind if layer else f"{count} products",
    shapes=ways if layer else "",
    phase=_phase(layer),
    bits=_numbers.pair(pair) if layer else "",
    tone=tone(*pair) if layer else "",
    macs=node.amounts[0],
    ace=node.amounts[1],
    share=node.amounts[1] / ace if ace else 0.0,
    bytes=node.amounts[2],
    flagged=bool(layer) and node.name in flagged,
  )


def _phase(layer: Mapping[str, Any]) -> str:
  """The phase, and of what it makes the gradient."""
  return ", ".join(filter(None, (str(layer.get("phase", "")), gradient(layer))))


def gradient(layer: Mapping[str, Any]) -> str:
  """Of what a backward product makes the gradient: "dkernel", "dx".

  "" for any other product, and where neither operand is a parameter.
  """
  of = str(layer.get("gradient_of") or "").rpartition("/")[2]
  if of:
    return f"d{of}"
  known = layer.get("phase") == "backward" and layer.get("weights")
  return "dx" if known else ""


def shape(given: Any) -> str:
  """1×28×28; several shapes with commas."""
  if not given:
    return _numbers.NONE
  if isinstance(given[0], list | tuple):
    parts: Sequence[Any] = given
    return ", ".join(shape(part) if part else "scalar" for part in parts)
  return "×".join(str(n) for n in given)


# --- The drawing -------------------------------------------------------------

LEVEL = 34  # pixels of a level
_LEVELS = 7


@dataclasses.dataclass(frozen=True)
class Cell:
  """A rectangle of the drawing, in percent of its width and in pixels."""

  name: str
  label: str
  tone: str
  # Of a layer; a module has none.
  y: int
  height: int
  x: Sequence[float]
  # One for each of METRICS; so is `width`.
  width: Sequence[float]
  title: str


@dataclasses.dataclass(frozen=True)
class Icicle:
  """All cells, those of a module below it; `height` in pixels."""

  cells: Sequence[Cell]
  height: int
  cut: int
  # Cells that are left out, the smallest ones.


def icicle(top: Node, name: str, most: int) -> Icicle | None:
  """Cells as wide as their part of the whole; None if there is nothing.

  Args:
    top: the model, from `tree`.
    name: what it is called.
    most: cells, at most; the largest are kept.
  """
  whole = top.amounts
  if not any(whole):
    return None
  levels = min(max((depth for depth, _ in top.walk()), default=0) + 2, _LEVELS)
  height = levels * LEVEL
  cells: list[tuple[float, Cell]] = []

  def place(node: Node, label: str, depth: int, left: tuple[float, ...]):
    width = [
      100 * n / all_ if all_ else 0.0
      for n, all_ in zip(node.amounts, whole, strict=True)
    ]
    leaf = node.layer is not None or depth + 1 >= levels
    y = depth * LEVEL
    phase = str((node.layer or {}).get("phase", "forward"))
    cell = Cell(
      name=(node.name or name) + _of(phase),
      label=label,
      tone=_cell_tone(node) if leaf else "",
      y=y,
      height=height - y if leaf else LEVEL,
      x=left,
      width=width,
      title=_title(node),
    )
    cells.append((max(width), cell))
    if leaf:
      return
    at = list(left)
    for child in node.children:
      place(child, tail(child.name, node.name), depth + 1, tuple(at))
      at = [
        a + (100 * n / all_ if all_ else 0.0)
        for a, n, all_ in zip(at, child.amounts, whole, strict=True)
      ]

  place(top, name, 0, (0.0, 0.0, 0.0))
  largest = sorted(range(len(cells)), key=lambda i: -cells[i][0])[:most]
  shown = [i for i in sorted(largest) if cells[i][0] > 0]
  drawn = [cells[i][1] for i in shown]
  return Icicle(drawn, height, len(cells) - len(drawn))


def _of(phase: str) -> str:
  return "" if phase == "forward" else f" ({phase})"


def tail(name: str, above: str) -> str:
  """What a name adds to the module that it is in."""
  inside = above and name.startswith(f"{above}/")
  return name[len(above) + 1 :] if inside else name


def _cell_tone(node: Node) -> str:
  """That of the layer, or of the largest layer of a module."""
  largest = max(
    (n for _, n in node.walk(0) if n.layer is not None),
    key=lambda n: n.amounts[1],
  )
  layer = largest.layer or {}
  return tone(int(layer["lhs_bits"]), int(layer["rhs_bits"]))


def _title(node: Node) -> str:
  macs, ace, size = node.amounts
  return (
    f"{_numbers.short(macs)} MACs · {_numbers.short(ace)} ACE ·"
    f" {_numbers.size(size)}"
  )
