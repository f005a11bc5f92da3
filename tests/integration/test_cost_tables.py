"""The experiment with the papers' costs: figures, reasons, README, command."""

import json
import os
import subprocess
import sys

import pytest

from experiments.cost_tables import sheet, tables
from experiments.cost_tables.papers import (
  bibert,
  binarydm,
  ecoformer,
  reactnet,
)
from tests.golden import folder

NAME = "experiments/cost_tables"
SHEETS = {
  made.name: made for name in tables.NAMES for made in tables.load(name)
}
ROWS = [(name, row) for name, made in SHEETS.items() for row in made.rows]
# What takes about a second each; the rest is marked slow.
QUICK = {
  ("reactnet", "ReActNet-A"),
  ("reactnet", "Bi-Real-18"),
  ("bivit_ops", "DeiT-T"),
  ("bivit_sizes", "DeiT-T"),
  ("bivit_ops", "Swin-T"),
  ("bivit_sizes", "Swin-T"),
  ("ecoformer", "PVTv2-B0"),
  ("ecoformer_programs", "PVTv2-B0"),
  ("bibert", "BERT 32-32-32"),
  ("bibert", "BiBERT 1-1-1"),
  ("bibert", "of the printed figures"),
  *(("bimamba", row) for row in SHEETS["bimamba"].rows),
  *(("bimamba_tokens", row) for row in SHEETS["bimamba_tokens"].rows),
  *(("fbi_llm", row) for row in SHEETS["fbi_llm"].rows),
  ("binarydm", "LDM-4 32-32"),
  ("binarydm", "BinaryDM 1.1-4"),
}

# Figures that were counted by hand, or by the authors' code, and no paper
# prints: they must come out to the last digit.
_OPS = (
  "rest",
  "attention",
  "mlp",
  "fp_products",
  "w1a32_products",
  "w1a1_products",
)
_ECO = ("mul", "add", "energy", "msa_mul", "msa_add", "msa_energy")


def _row(keys, text):
  return dict(zip(keys, text.split(), strict=True))


CHECKED = {
  "pokebnn": {
    "PokeBNN-0.5x": {"ace": "1.409538048", "bytes": "2126720"},
    "PokeBNN-1.0x": {"ops": "0.68701696", "bytes": "6451008"},
  },
  "reactnet": {
    "ReActNet-A": {
      "ops": "0.87126016",
      "ace": "7.853572096",
      "bytes": "5581376",
    },
    "Bi-Real-18": {"binary": "1.676"},
  },
  "resnet50": {
    "w4a4, first and last w8a8": {"ace": "71189921792", "memory": "110241280"},
  },
  "bivit_ops": {
    "DeiT-T": _row(_OPS, "0.0291 0.5274 0.6972 1.254 0.386 0.048"),
    "DeiT-B": _row(_OPS, "0.1164 6.2927 11.1548 17.564 5.792 0.389"),
    "Swin-T": _row(_OPS, "0.1886 1.5274 2.7745 4.491 1.600 0.256"),
    "Swin-S": _row(_OPS, "0.1886 3.0032 5.5491 8.741 3.010 0.322"),
  },
  "bivit_sizes": {
    "DeiT-T": {"matrices": "2.18", "fp_bytes": "22.87"},
    "DeiT-B": {"matrices": "16.66", "fp_bytes": "346.27"},
    "Swin-T": {"matrices": "12.62", "fp_bytes": "113.15"},
    "Swin-S": {"matrices": "15.37", "fp_bytes": "198.43"},
  },
  "ecoformer": {
    "PVTv2-B0": _row(_ECO, "0.535 0.565 2.49 2.016 1.993 9.25"),
    "PVTv2-B1": _row(_ECO, "2.030 2.089 9.39 5.019 4.997 23.07"),
    "PVTv2-B2": _row(_ECO, "3.853 3.965 17.82 8.641 8.605 39.71"),
    "PVTv2-B3": _row(_ECO, "6.541 6.715 30.25 11.861 11.823 54.53"),
    "PVTv2-B4": _row(_ECO, "9.571 9.824 44.25 15.972 15.928 73.43"),
    "Twins-SVT-S": _row(_ECO, "2.719 2.808 12.59 5.958 5.910 27.36"),
  },
  "bibert": {
    "BERT 32-32-32": {"products": "22.35", "stored": "417.6"},
    "BiBERT 1-1-1": {
      "products": "0.349",
      "matrices": "13.04",
      "size": "13.36",
      "stored": "13.50",
    },
    "BiBERT, position and type tables in float": {"stored": "14.96"},
    "of the printed figures": {"fewer": "56.3", "smaller": "31.2"},
  },
  "bimamba": {
    "2.7B, vocabulary 50288": {"float": "5.03398418", "both": "0.545153618"},
    "2.7B, vocabulary 32000": {"float": "4.947", "both": "0.458"},
  },
  "fbi_llm": {"7B": {"parameters": "6738415616"}},
  "binarydm": {
    "LDM-4 32-32": {"ops": "96.018", "attention": "5.18"},
    "BinaryDM 1.1-4": {"ops": "10.03", "fewer": "9.6", "paper": "6.05"},
  },
}


def _readme(root):
  return (root / NAME / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
  ("name", "row"),
  [
    pytest.param(*pair, marks=[] if pair in QUICK else [pytest.mark.slow])
    for pair in ROWS
  ],
)
def test_a_row_is_what_is_checked_published_and_written(root, name, row):
  made = SHEETS[name]
  figures = made.figures([row])
  assert not made.errors(figures)
  columns = {column.key: column for column in made.columns}
  for key, text in CHECKED.get(name, {}).get(row, {}).items():
    assert columns[key].agrees(figures[row][key], text), (key, text)
  written = tables.between(_readme(root), name)[1].splitlines()
  assert made.line(row, figures[row]) in written


def test_every_checked_and_published_row_is_made():
  for name, rows in CHECKED.items():
    assert set(rows) <= set(SHEETS[name].rows)
  for name, made in SHEETS.items():
    assert set(sheet.published(name)["rows"]) <= set(made.rows)
    known = {column.key for column in made.columns}
    for values in sheet.published(name)["rows"].values():
      assert set(values) <= known


@pytest.mark.parametrize("name", SHEETS)
def test_the_readme_has_the_text_around_the_rows(root, name):
  made = SHEETS[name]
  written = tables.between(_readme(root), name)[1].splitlines()
  rest = [line for line in written if line.split(" | ")[0][2:] not in made.rows]
  assert rest == made.markdown({}).splitlines()
  assert len(written) == len(rest) + len(made.rows)


# --- Programs -----------------------------------------------------------------


def test_bert_has_the_macs_of_its_parts():
  report = bibert.float_report()
  assert report.total_by(lambda record: record.macs, _part) == {
    "linear": 10_871_635_968,
    "attention": 301_989_888,
    "pooler": 589_824,
  }
  assert report.params["total"] == 109_482_240


def _part(record):
  if record.kind == "matmul":
    return "attention"
  return "pooler" if record.name == "pooler" else "linear"


def test_no_program_hides_a_product():
  reports = [*ecoformer.reports("PVTv2-B0"), bibert.binary_report()]
  for report in (*reports, binarydm.float_report()):
    assert not report.not_counted


def test_the_u_net_has_the_census_of_the_official_one():
  report = binarydm.float_report()
  assert report.params["total"] == 274_056_163
  assert report.weights_by_bits == {32: 273_872_704}
  assert (
    len({path for record in report.layers for path in record.params}) == 123
  )
  low = binarydm.low_report(binarydm.two_bases())
  assert low.weights_by_bits == {1: 233_017_344, 2: 39_839_744, 32: 1_015_616}


@pytest.mark.golden
@pytest.mark.parametrize("path", folder.files("ace", "reactnet_a.json"))
def test_reactnet_is_the_official_one_layer_by_layer(path):
  expected = json.loads(path.read_text())
  found = reactnet.reactnet_a().to_json()
  totals = dict(expected["totals"])
  del totals["params"]  # of another framework's module
  assert {key: found["totals"][key] for key in totals} == totals
  for ours, theirs in zip(found["layers"], expected["layers"], strict=True):
    del theirs["name"]
    assert {key: ours[key] for key in theirs} == theirs


# --- The sheet ----------------------------------------------------------------


@pytest.mark.parametrize(
  ("ours", "paper", "same"),
  [
    (1_258_000_000, "1.26", True),
    (1_254_900_000, "1.26", False),
    (1_255_000_000, "1.26", True),
    (1_265_000_000, "1.26", True),
    (12_600_000_000, "13", True),
  ],
)
def test_figures_agree_if_they_round_to_each_other(ours, paper, same):
  assert sheet.Column("a", "a", 1e9).agrees(ours, paper) == same


def test_a_difference_needs_a_reason_and_a_reason_a_difference():
  made = SHEETS["ecoformer"]
  paper = {"mul": 540_000_000, "add": 560_000_000}
  assert not made.errors({"PVTv2-B0": paper})
  (error,) = made.errors({"PVTv2-B0": {**paper, "mul": 600_000_000}})
  assert "0.600 and the published 0.54 differ, and have no reason" in error
  (error,) = made.errors({"PVTv2-B3": {"add": 6_750_000_000}})
  assert "agree, and have a reason" in error


# --- The command --------------------------------------------------------------


def _command(root, *arguments):
  return subprocess.run(
    [sys.executable, f"{root}/{NAME}/tables.py", *arguments],
    env={**os.environ, "PYTHONPATH": str(root)},
    capture_output=True,
    text=True,
    timeout=200,
  )


def test_the_command_compares_and_writes_one_table(root, tmp_path):
  path = tmp_path / "README.md"
  path.write_text(_readme(root).replace("0.8713", "0.9999"))
  flags = ["--only=reactnet", f"--readme={path}"]
  found = _command(root, *flags, "--check")
  assert found.returncode == 1
  assert "reactnet: the README has another table" in found.stderr
  found = _command(root, *flags)
  assert found.returncode == 0, found.stderr
  assert path.read_text() == _readme(root)


def test_the_command_names_the_tables_there_are(root):
  found = _command(root, "--only=bivvit")
  assert found.returncode == 2
  assert "there are" in found.stderr
