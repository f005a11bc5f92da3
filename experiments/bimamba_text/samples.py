"""What the nets of this experiment write, into its README.

From the root of the repository, after the sweep:

  python experiments/bimamba_text/samples.py --root=runs/bimamba_text
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import app, flags, logging

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:  # as a script, only this folder is
  sys.path.insert(0, str(ROOT))

from experiments import launcher  # noqa: E402
from experiments.bimamba_text import sweep  # noqa: E402

MARKS = ("<!-- samples -->", "<!-- end of samples -->")
PROMPT = flags.DEFINE_string("prompt", "In the first ", "the texts' beginning")
TOKENS = flags.DEFINE_integer("tokens", 240, "bytes of each text")
SEED = flags.DEFINE_integer("seed", 0, "of the runs and of the draws")
TEMPERATURE = flags.DEFINE_float("temperature", 0.7, "of the draws")


def texts(root: Path) -> Iterator[tuple[str, str]]:
  """Row and text, of each row whose run is there."""
  from jbin import lm
  from jbin.train import config as config_lib, inference

  sampling = lm.Sampling(temperature=TEMPERATURE.value, seed=SEED.value)
  for name in sweep.ROWS:
    workdir = root / f"{name}-{SEED.value}"
    written = workdir / "config.json"
    if not written.is_file():
      continue
    config = config_lib.from_mapping(json.loads(written.read_text()))
    model, tokenizer = inference.language_model(config, workdir)
    (prompt,) = tokenizer.encode([PROMPT.value])
    (found,) = lm.generate(
      model, [prompt], new_tokens=TOKENS.value, sampling=sampling
    )
    yield name, tokenizer.decode([*prompt, *found])


def written(readme: str, found: Sequence[tuple[str, str]]) -> str:
  """The README with these texts between its marks."""
  before, rest = readme.split(MARKS[0])
  after = rest.split(MARKS[1])[1]
  lines = []
  for name, text in found:
    said = " ".join(text.split())
    lines += [f"* `{name}`: {_escaped(said)}"]
  return "\n".join([before + MARKS[0], *lines, MARKS[1] + after])


def _escaped(text: str) -> str:
  for mark in "\\`*_<>|[]":
    text = text.replace(mark, f"\\{mark}")
  return text


def main(argv: Sequence[str]) -> None:
  del argv
  logging.set_verbosity(logging.WARNING)
  root = Path(launcher.ROOT.value or "runs/bimamba_text")
  found = list(texts(root))
  if not found:
    raise SystemExit(f"no run in {root}; run the sweep first")
  readme = Path(launcher.README.value or f"{sweep.HERE}/README.md")
  readme.write_text(written(readme.read_text(), found))


if __name__ == "__main__":
  app.run(main)
