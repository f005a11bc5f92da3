"""The tables of experiments: of a toy's runs, and those in the READMEs."""

import json
import pathlib
import shutil
import subprocess
import sys

import pytest

from experiments import workdirs
from jbin import report
from jbin.train import counting, loop
from tests.integration.toy import finish, sweep

# --- Of a toy -----------------------------------------------------------------


def _lines(**found):
  """The toy's rows, and what ends the table."""
  rows = ("far", "float", "near", "teacher", "poke")
  each = [f"| `{row}` | {found.get(row, 'not run | –')} |" for row in rows]
  return [*each, "<!-- end of table -->"]


def test_it_writes_the_table_between_the_marks(toy):
  finish(toy / "runs/toy/float-0", 0.45, seconds=1800)
  finish(toy / "runs/toy/float-1", 0.47, seconds=5400, timing=(7, 8))
  finish(toy / "runs/toy/teacher", 0.8, timing=(3600, 3600))
  (toy / "runs/toy/near-0").mkdir()  # not finished
  readme = toy / "toy" / "README.md"
  readme.write_text("a\n<!-- table -->\nold\n<!-- end of table -->\nb\n")
  for root in ("runs/toy", "gone"):  # what was collected is kept
    found = sweep(toy, "--table", f"--root={root}")
    assert found.returncode == 0, found.stderr
  assert readme.read_text().splitlines() == [
    "a",
    "<!-- table -->",
    "| row | top-1 | hours |",
    "|---|---|---|",
    "| `far` | not run | – |",
    "| `float` | 46.00 ± 1.41 | 2.0 |",
    "| `near` | not run | – |",
    "| `teacher` | 80.00 | 2.0 |",
    "| `poke` | not run | – |",
    "",
    "3 runs; 5400 seconds a run (median), 3.0 hours in all.",
    "<!-- end of table -->",
    "b",
  ]
  line, *_ = (toy / "toy" / "results.jsonl").read_text().splitlines()
  assert json.loads(line) == {
    "row": "float",
    "seed": 0,
    "accuracy": 0.45,
    "first_loss": 2.25,
    "last_loss": 1.5,
    "seconds": 1800,
    "jobs": 2,
  }


def test_chosen_rows_are_added_to_those_of_another_file(toy):
  """The table has all rows, whatever is collected."""
  other = toy / "other.md"
  other.write_text("<!-- table --><!-- end of table -->")
  model = {"name": "net", "of": "near"}
  finish(toy / "elsewhere/near-2", 0.5, model=model)
  finish(toy / "elsewhere/near-1", 0.6, model=model)
  finish(toy / "elsewhere/float-2", 0.7)
  flags = ["--table", f"--readme={other}", "--root=elsewhere"]
  found = sweep(toy, *flags, "--rows=near", "--seeds=2")
  assert found.returncode == 0, found.stderr
  assert other.read_text().splitlines()[3:] == _lines(near="50.00 | 0.0")
  line = (toy / "results.jsonl").read_text()
  assert json.loads(line)["row"] == "near"
  found = sweep(toy, *flags, "--rows=float", "--seeds=2")
  assert found.returncode == 0, found.stderr
  both = _lines(near="50.00 | 0.0", float="70.00 | 0.0")
  assert other.read_text().splitlines()[3:] == both
  other.write_text("no marks")
  assert "lacks the marks" in sweep(toy, *flags).stderr


def test_rows_that_there_are_no_more_are_dropped(toy):
  readme = toy / "toy" / "README.md"
  readme.write_text("<!-- table --><!-- end of table -->")
  record = {"seed": 0, "accuracy": 0.5}
  lines = [json.dumps({**record, "row": row}) for row in ("faar", "float")]
  path = toy / "toy" / "results.jsonl"
  path.write_text("\n".join(lines) + "\n")
  found = sweep(toy, "--table")
  assert found.returncode == 0, found.stderr
  said = "toy/results.jsonl: dropped faar: no such row"
  assert found.stderr.splitlines() == [said]
  assert path.read_text() == lines[1] + "\n"
  assert readme.read_text().splitlines()[3:] == _lines(float="50.00 | 0.0")


def test_a_trial_does_not_enter_the_table(toy):
  finish(toy / "runs/toy/float-0", steps=6)
  readme = toy / "toy" / "README.md"
  readme.write_text("<!-- table -->\nold\n<!-- end of table -->")
  found = sweep(toy, "--table")
  assert found.returncode == 1
  said = "runs/toy/float-0 holds another run: steps: 6 -> 9\nchoose another"
  assert found.stderr.startswith(said)
  assert "old" in readme.read_text()
  assert not (toy / "toy" / "results.jsonl").exists()
  assert sweep(toy, "--table", "--", "--config.steps=6").returncode == 0
  assert "`float` | 50.00 " in readme.read_text()


# --- Of the experiments -------------------------------------------------------


def _names():
  folder = pathlib.Path(__file__).parents[2] / "experiments"
  return sorted(path.parent.name for path in folder.glob("*/sweep.py"))


@pytest.mark.parametrize("name", _names())
def test_the_readme_is_what_the_sweep_writes(root, tmp_path, name):
  """From results.jsonl alone, where there is one."""
  for file in ("README.md", "results.jsonl"):
    path = root / "experiments" / name / file
    if path.exists():
      shutil.copy(path, tmp_path)
  flags = [f"--root={tmp_path}/none", f"--readme={tmp_path}/README.md"]
  found = subprocess.run(
    [sys.executable, f"experiments/{name}/sweep.py", "--table", *flags],
    cwd=root,
    capture_output=True,
    text=True,
    timeout=100,
  )
  assert found.returncode == 0, found.stderr
  assert not found.stderr
  for path in tmp_path.iterdir():
    written = root / "experiments" / name / path.name
    assert path.read_text("utf-8") == written.read_text("utf-8")


# --- Of one run ---------------------------------------------------------------


def test_a_run_is_finished_when_its_page_is_there(tmp_path, monkeypatch):
  """The last file; a kill before it leaves no part of it."""

  class Cost:
    def to_json(self):
      return {"macs": 1}

  def killed(runs, out):
    assert json.loads((tmp_path / "report/cost.json").read_text())
    (out / "index.html").write_text("<html")
    raise KeyboardInterrupt

  def write(runs, out):
    (out / "index.html").write_text("<html></html>")
    return out / "index.html"

  monkeypatch.setattr(counting, "cost_report", lambda config: Cost())
  monkeypatch.setattr(report, "write", killed)
  with pytest.raises(KeyboardInterrupt):
    loop.write_report(None, tmp_path)
  assert not workdirs.finished(tmp_path)
  monkeypatch.setattr(report, "write", write)
  page = loop.write_report(None, tmp_path)
  assert workdirs.finished(tmp_path)
  assert page.read_text() == "<html></html>"
  names = {path.name for path in page.parent.iterdir()}
  assert names == {"cost.json", "index.html"}
