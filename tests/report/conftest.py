import json
import math
import pathlib

import pytest

LAYER = {
  "kind": "conv",
  "in_shape": [8, 8, 16],
  "out_shape": [8, 8, 16],
  "kernel": [3, 3, 16, 16],
  "lhs_bits": 1,
  "rhs_bits": 1,
  "macs": 147456,
  "ace": 147456,
  "weights": 2304,
}


def cost(bits=1, layers=4, **extra):
  rows = [
    LAYER
    | {"name": f"block{i}/conv", "lhs_bits": bits, "rhs_bits": bits}
    | {"ace": LAYER["macs"] * bits * bits}
    for i in range(layers)
  ]
  macs = sum(row["macs"] for row in rows)
  weights = sum(row["weights"] for row in rows)
  return {
    "model": "tiny",
    "input": [8, 8, 16],
    "totals": {
      "ace": sum(row["ace"] for row in rows),
      "macs": macs,
      "macs_by_bit_pair": {f"{bits}x{bits}": macs},
      "weights_by_bits": {str(bits): weights},
      "weight_bits": weights * bits,
      "weight_bytes": weights * bits // 8,
    },
    "elementwise_scalar_ops": {"batch_norm_sops": 98765},
    "layers": rows,
  } | extra


def metrics(accuracy=0.9861, steps=40):
  for step in range(1, steps + 1):
    yield {"step": step, "split": "train", "loss": 2 * math.exp(-step / 9)}
    if step % 10 == 0:
      final = accuracy if step == steps else accuracy - 0.1
      yield {"step": step, "split": "test", "loss": 0.3, "accuracy": final}


@pytest.fixture
def make_run(tmp_path):
  """`make_run(name, ...)` writes a work directory and returns its path."""

  def make(name, cost_json=None, lines=None, config=None) -> pathlib.Path:
    workdir = tmp_path / name
    (workdir / "report").mkdir(parents=True)
    report = workdir / "report" / "cost.json"
    report.write_text(json.dumps(cost_json or cost()))
    settings = {"model": {"name": "tiny"}} if config is None else config
    (workdir / "config.json").write_text(json.dumps(settings))
    lines = list(metrics()) if lines is None else lines
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (workdir / "metrics.jsonl").write_text(text)
    return workdir

  return make


@pytest.fixture
def pair(make_run):
  """A 1-bit run and its float twin."""
  return [
    make_run("binary"),
    make_run("float", cost(bits=32), list(metrics(0.9917))),
  ]
