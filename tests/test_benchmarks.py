"""What prints the tables of benchmarks/README.md still runs."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
RUN = """
import itertools

import jax

jax.config.update("jax_num_cpu_devices", 8)
import scale

scale.TOKENS = 16
scale.MESHES = scale.MESHES[-1:]
print(*itertools.islice(scale.transfers(), 3), sep="\\n")
"""


@pytest.mark.slow
def test_a_row_of_transfers():
  done = subprocess.run(
    [sys.executable, "-c", RUN],
    cwd=BENCHMARKS,
    capture_output=True,
    text=True,
    check=True,
  )
  row = done.stdout.splitlines()[-1]
  assert row.startswith("| fbi_llm, float32 | fsdp 4, tensor 2 | ")
