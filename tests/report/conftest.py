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


def everything(name="net", bits=1, evil=""):
  """A cost report with every key; `evil` is put into every string."""
  rows = []
  names = ["stem/conv", "head"]
  names[1:1] = [f"blocks/{i}/{part}" for i in range(3) for part in ("a", "b/c")]
  for i, path in enumerate(names):
    wide = 8 if path in ("stem/conv", "head") else bits
    macs = LAYER["macs"] * (i + 1)
    rows.append(
      LAYER
      | {"name": path + evil, "lhs_bits": wide, "rhs_bits": wide, "macs": macs}
      | {"ace": macs * wide * wide, "weight_bytes": 2304 * wide // 8}
      | {"phase": "forward", "repeats": 1, "kind": "conv" + evil}
    )
  found = cost()
  pairs = {}
  for row in rows:
    key = f"{row['lhs_bits']}x{row['rhs_bits']}"
    pairs[key] = pairs.get(key, 0) + row["macs"]
  found["totals"] |= {
    "ace": sum(row["ace"] for row in rows),
    "ace_strict": 2 * sum(row["ace"] for row in rows),
    "macs": sum(pairs.values()),
    "macs_by_bit_pair": pairs,
  }
  uncounted = {"where": "b" + evil, "shapes": [[2, 3]], "repeats": 4}
  uncounted |= {"reason": "no rule" + evil, "macs_per_trip": 12}
  return found | {
    "model": name + evil,
    "layers": rows,
    "flagged": [names[1] + evil],
    "left_out": {"parameters outside products" + evil: 77},
    "notes": ["a note" + evil],
    "not_counted": [
      uncounted | {"primitive": "mystery" + evil, "matrix_like": True},
      uncounted | {"primitive": "sort" + evil, "matrix_like": False},
    ],
    "branches": [
      {"where": "cond" + evil, "ace": [5, 7], "macs": [5, 7], "counted": 1}
    ],
    "lookups": [{"path": "embed" + evil, "elements": 64, "bits": 8}],
    "collectives": [
      {"primitive": "psum" + evil, "axes": ["data" + evil], "bytes": 9}
    ],
    "conventions": {
      "ace": _convention("ACE" + evil, "bit operations", 10**9, evil),
      "bops": _convention("BOPs", "bit" + evil, 5, evil) | {"macs_priced_0": 3},
      "energy": _convention("energy", "pJ", 12.5e6, evil),
    },
    "memory": {
      "weights_bytes": 288,
      "weights_by_bits": {"1": 2304},
      "embeddings_by_bits": {"8": 100},
      "other_parameters_bytes": 64,
      "batch_stats_bytes": 32,
      "states": {"cache": ["Cache" + evil, 4096]},
      "leaves_out": "activations" + evil,
    },
    "roofline": {
      "chip" + evil: {
        "seconds": 3.2e-6,
        "seconds_compute": 1e-6,
        "seconds_memory": 3e-6,
        "macs_without_unit": 17,
        "source": "a data sheet" + evil,
      }
    },
    "training": _training(evil),
  }


def _convention(title, unit, total, evil):
  return {
    "title": title,
    "unit": unit,
    "total": total,
    "macs_priced_0": 0,
    "leaves_out": f"norms (and biases{evil})",
  }


def _training(evil):
  phase = {"macs": 5, "macs_by_bit_pair": {"1x1": 5}, "ace": 5}
  return {
    "phases": {
      name: phase | {"elementwise": 3} for name in ("forward", "backward")
    },
    "peak": {
      "bytes": 1000,
      "primitive": "mul" + evil,
      "phase": "backward" + evil,
      "held": [
        {"what": "w" + evil, "phase": "forward", "bytes": 8, "shape": [2, 3]}
        | {"dtype": "float32" + evil}
      ],
    },
    "memory_check": {"compiled": 900, "notes": ["fusion" + evil]},
    "communication": {
      "by_axis": {"data" + evil: {"transfers": 2, "bytes": 10, "sent": 20}}
    },
  }


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
