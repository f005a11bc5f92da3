"""What each fault does is what docs/faults.md says, row by row.

`python -m tests.integration.test_faults` makes all faults and writes the page.
"""

import os
import pathlib
import sys
import tempfile

import pytest

from jbin import __main__
from tests.integration import fault_rows, faults

PAGE = faults.ROOT / "docs" / "faults.md"

_HEAD = """\
# What can go wrong, and what happens then

Each row was observed: `tests/integration/test_faults.py` makes the fault, reads
the last line on stderr, and compares the metrics of the run that went on with
those of one that nothing disturbed, byte for byte. The run is of 16 steps with
a checkpoint every 4; RUN is its workdir. To write this page anew:
`python -m tests.integration.test_faults`.

Exit codes of `jbin`:

{codes}

| fault | what is said | exit code | lost | goes on |
| --- | --- | --- | --- | --- |
{rows}
"""


def _line(fault, seen):
  return f"| {fault} | {seen.said} | {seen.code} | {seen.lost} | {seen.then} |"


def _page(rows):
  codes = "\n".join(
    f"- {code}: {line}" for code, line in __main__.EXIT_CODES.items()
  )
  return _HEAD.format(codes=codes, rows="\n".join(rows))


@pytest.fixture(scope="module")
def place(tmp_path_factory):
  return faults.Place(tmp_path_factory.mktemp("faults"))


@pytest.mark.parametrize(
  "row",
  [
    pytest.param(row, id=row.fault, marks=[pytest.mark.slow] * row.slow)
    for row in fault_rows.ROWS
  ],
)
def test_what_the_page_says_is_what_happens(row, place):
  said = {line.split(" | ")[0]: line for line in PAGE.read_text().splitlines()}
  assert _line(row.fault, row.observe(place)) == said[f"| {row.fault}"]


def test_the_page_is_whole():
  text = PAGE.read_text()
  lines = [line for line in text.splitlines() if line.startswith("| ")][2:]
  names = [line.split(" | ")[0].removeprefix("| ") for line in lines]
  assert names == [row.fault for row in fault_rows.ROWS]
  assert text == _page(lines)
  for line in lines:
    fault, said, code, lost, then = line.strip("| ").split(" | ")
    assert said, fault
    assert lost, fault
    assert then, fault
    assert int(code) in (*__main__.EXIT_CODES, 137), fault
    assert not {"traceback", "silent"} & {*line.lower().split()}, fault


def _write():
  with tempfile.TemporaryDirectory() as folder:
    place = faults.Place(pathlib.Path(folder))
    rows = []
    for row in fault_rows.ROWS:
      rows.append(_line(row.fault, row.observe(place)))
      print(rows[-1], flush=True)
  PAGE.write_text(_page(rows))


if __name__ == "__main__":
  os.chdir(faults.ROOT)
  sys.exit(_write())
