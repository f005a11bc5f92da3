"""What the page shows of a training step: phases, memory, transfers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jbin.report import _layers, _numbers, _read

# In the order of a training step.
PHASES = ("forward", "recompute", "backward", "update")
_HELD = 12
# Values at the peak that the page names.


@dataclasses.dataclass(frozen=True)
class Phase:
  """What a part of the training step costs."""

  name: str
  macs: Sequence[tuple[str, str, int]]
  # Colour, bit pair and MACs.
  ace: int
  elementwise: int
  share: float


def phases(cost: Mapping[str, Any]) -> list[Phase]:
  """The parts of a training step; one at most if there is no training."""
  training: Mapping[str, Any] = cost.get("training") or {}
  table: Mapping[str, Any] = training.get("phases") or {}
  whole = sum(int(row.get("ace", 0)) for row in table.values()) or 1
  known = [name for name in PHASES if name in table]
  return [
    Phase(
      name,
      [
        (_layers.tone(*pair), _numbers.pair(pair), int(n))
        for pair, n in sorted(
          (_read.bit_pair(key), n)
          for key, n in (table[name].get("macs_by_bit_pair") or {}).items()
        )
      ],
      int(table[name].get("ace", 0)),
      int(table[name].get("elementwise", 0)),
      int(table[name].get("ace", 0)) / whole,
    )
    for name in [*known, *(name for name in table if name not in known)]
  ]


# Key of the peak, label, whether it is a part of what stands above it.
_PEAK = (
  ("bytes", "Peak of what the step makes", False),
  ("tagged_bytes", "packed to their bits", True),
  ("fused_bytes", "with element-wise work fused", True),
  ("recomputed_bytes", "and done again in later phases", True),
  ("residual_bytes", "Kept from forward for later phases", False),
  ("residual_tagged_bytes", "packed to their bits", True),
  ("total_bytes", "Peak with arguments", False),
  ("arguments_bytes", "arguments", True),
)
_COMPILED = (
  ("compiled", "XLA: temp + output − alias", False),
  ("temp", "temp", True),
  ("output", "output", True),
  ("alias", "alias", True),
  ("argument", "argument", True),
)


def step(cost: Mapping[str, Any]) -> dict[str, Any] | None:
  """Memory and transfers of a step; None if the report is of none."""
  training: Mapping[str, Any] = cost.get("training") or {}
  peak: Mapping[str, Any] = training.get("peak") or {}
  check: Mapping[str, Any] = training.get("memory_check") or {}
  sent: Mapping[str, Any] = training.get("communication") or {}
  if not (peak or check or sent):
    return None
  rows = [
    (label, part, table[key])
    for table, keys in ((peak, _PEAK), (check, _COMPILED))
    for key, label, part in keys
    if key in table
  ]
  held: list[Mapping[str, Any]] = list(peak.get("held") or ())
  return {
    "memory": rows,
    "at": f"{peak.get('primitive')} in {peak.get('phase')}" if peak else "",
    "held": [
      {
        "what": f"{row['what']}, {row['phase']}",
        "shape": f"{_layers.shape(row['shape'])} {row['dtype']}",
        "bytes": row["bytes"],
      }
      for row in held[:_HELD]
    ],
    "axes": dict(sent.get("by_axis") or {}),
    "notes": [*(check.get("notes") or ()), *(sent.get("notes") or ())],
  }
