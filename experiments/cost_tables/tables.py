"""The cost columns of the papers, read off programs, in one command.

  python experiments/cost_tables/tables.py                 writes README.md
  python experiments/cost_tables/tables.py --only=bivit    one of its tables
  python experiments/cost_tables/tables.py --check         compares with it

No model allocates anything and nothing runs: each program is traced on shapes
and counted by `jbin.cost`. A published figure that is not ours, rounded, must
have a reason in its table, or the command fails.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import app, flags

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # as a script, only this folder is
  sys.path.insert(0, str(ROOT))

if TYPE_CHECKING:
  from experiments.cost_tables import sheet

# A module of `papers` each, which has one sheet or several.
NAMES = (
  "pokebnn",
  "reactnet",
  "resnet50",
  "bivit",
  "ecoformer",
  "bibert",
  "bimamba",
  "binarydm",
)

_ONLY = flags.DEFINE_list("only", [], "tables to make; empty: all")
_CHECK = flags.DEFINE_bool("check", False, "compare with the README")
_README = flags.DEFINE_string(
  "readme",
  str(Path(__file__).resolve().parent / "README.md"),
  "the file that has the tables",
)


def load(name: str) -> Sequence[sheet.Sheet]:
  """The sheets of a paper."""
  module = importlib.import_module(f"experiments.cost_tables.papers.{name}")
  return module.SHEETS


def marks(name: str) -> tuple[str, str]:
  """What stands before and after a table in the README."""
  return f"<!-- table: {name} -->", f"<!-- end of table: {name} -->"


def between(text: str, name: str) -> tuple[str, str, str]:
  """A text before, in and after the marks of a table.

  Raises:
    SystemExit: if it lacks them.
  """
  first, last = marks(name)
  before, found, rest = text.partition(first)
  inside, end, after = rest.partition(last)
  if not found or not end:
    raise SystemExit(f"the README lacks the marks {first} and {last}")
  return before, inside.strip("\n"), after


def write(readme: Path, name: str, table: str) -> None:
  """Puts a table between its marks."""
  text = readme.read_text(encoding="utf-8")
  before, _, after = between(text, name)
  first, last = marks(name)
  readme.write_text(
    f"{before}{first}\n{table}\n{last}{after}", encoding="utf-8"
  )


def update(made: sheet.Sheet, readme: Path, *, check: bool) -> list[str]:
  """Makes one table; writes it, or compares it. Returns what is wrong."""
  begin = time.perf_counter()
  figures = made.figures()
  table = made.markdown(figures)
  wrong = made.errors(figures)
  if not check:
    write(readme, made.name, table)
  elif between(readme.read_text(encoding="utf-8"), made.name)[1] != table:
    wrong.append(f"{made.name}: the README has another table")
  seconds = time.perf_counter() - begin
  print(f"{made.name}: {made.count(figures)}; {seconds:.1f} s", file=sys.stderr)
  return wrong


def main(argv: Sequence[str]) -> int:
  del argv
  if unknown := set(_ONLY.value) - set(NAMES):
    print(f"no table {sorted(unknown)}; there are {NAMES}", file=sys.stderr)
    return 2
  # Tracing makes many small objects that stay: looking through them for
  # garbage at every thousandth is a third of the time.
  gc.set_threshold(200_000)
  wrong = []
  for name in _ONLY.value or NAMES:
    for made in load(name):
      wrong += update(made, Path(_README.value), check=_CHECK.value)
  for line in wrong:
    print(line, file=sys.stderr)
  return 1 if wrong else 0


if __name__ == "__main__":
  os.environ.setdefault("JAX_PLATFORMS", "cpu")  # nothing runs
  app.run(main)
