"""The runs of this experiment: every method at three seeds, on CPU cores.

From the root of the repository, with CIFAR-10 at TFDS_DATA_DIR; see
`experiments/launcher.py` for what `--run` and `--table` do:

  python experiments/binarizers_cifar10/sweep.py --run --rows=bnn,reste \
    --seeds=0 --jobs=1 -- --config.steps=100
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # as a script, only this folder is
  sys.path.insert(0, str(ROOT))

from experiments import launcher, results  # noqa: E402

HERE = "experiments/binarizers_cifar10"

# Top-1 % of W1A1 ResNet-20 and ResNet-18 with the papers' own recipes, and
# BiBench's share of the float nets' top-1 (%, mean of its nets). Its DoReFa
# scales each filter and has a window, as no method here, so it is not listed.
PUBLISHED = {
  "bnn": ("", "", "94.54"),
  "xnornet": ("", "", "94.73"),
  "bireal": ("", "", "95.61"),
  "xnorpp": ("", "", "94.52"),
  "react": ("", "", "95.92"),
  "recu": ("87.5", "92.8", "96.72"),
  "fda": ("", "", "94.66"),
  "irnet": ("86.5", "91.5", ""),
  "rbnn": ("86.5", "92.2", ""),
  "siman": ("87.4", "92.5", ""),
  "adabin": ("88.1", "", ""),
  "reste": ("86.75", "92.63", ""),
  "biper": ("86.98", "93.75", ""),
}
COLUMNS = (
  "bits",
  "top-1 %, here",
  "seeds",
  "training loss, here",
  "R20, paper",
  "R18, paper",
  "BiBench, % of float",
)


def rows() -> Mapping[str, launcher.Run]:
  """The float net and every method there is."""
  from jbin import methods

  names = ["float", *methods.REGISTRY]
  return {name: launcher.Run(f"{HERE}/config.py:{name}") for name in names}


def bits(name: str) -> str:
  """Bits of weights and activations, as W1A1; 32 is float."""
  if name == "float":
    return "W32A32"
  from jbin import methods

  pair = methods.REGISTRY.get(name)()
  widths = {
    key: 32 if item is None else item.bits for key, item in pair.items()
  }
  return f"W{widths['kernel_quantizer']}A{widths['input_quantizer']}"


def cells(name: str, records: Sequence[results.Record]) -> Sequence[str]:
  """A method's line, from its runs' results."""
  ours = ["not run", "", ""]
  if records:
    top1 = results.percent(records, "accuracy")
    ours = [top1, str(len(records)), results.losses(records)]
  return [bits(name), *ours, *PUBLISHED.get(name, ("", "", ""))]


if __name__ == "__main__":
  launcher.main(launcher.Experiment(HERE, rows, COLUMNS, cells))
