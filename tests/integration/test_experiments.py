"""PokeBNN on ImageNet: commands, the TPU launcher, the README's figures."""

import decimal
import json
import os
import re
import stat
import subprocess
import sys

import pytest

from jbin.cli import _flags
from jbin.train import build, config as config_lib, counting

NAME = "experiments/pokebnn_imagenet"
RUN_FLAGS = [
  "--config=configs/pokebnn_imagenet.py:1.0x",
  "--workdir=/mnt/jbin/a",
]


def _run(root, command, **environment):
  return subprocess.run(
    command,
    cwd=root,
    env={**os.environ, "PYTHONPATH": str(root), **environment},
    capture_output=True,
    text=True,
    timeout=60,
  )


# --- The sweep ----------------------------------------------------------------


def _sweep(root, *arguments, **environment):
  script = f"{NAME}/sweep.py"
  return _run(root, [sys.executable, script, *arguments], **environment)


def test_sweep_prints_teacher_then_widths_by_seeds(root):
  found = _sweep(root, "--rows=0.5x,1.0x", "--seeds=0,1", "--root=/r")
  assert found.returncode == 0, found.stderr
  teacher, *students = found.stdout.splitlines()
  assert teacher == (
    "jbin train --config=configs/resnet50_imagenet.py:w8a8 --workdir=/r/teacher"
  )
  assert students == [
    f"jbin train --config=configs/pokebnn_imagenet.py:{width}"
    f" --config.seed={seed} --config.task.teacher_workdir=/r/teacher"
    f" --workdir=/r/{width}-{seed}"
    for seed in (0, 1)
    for width in ("0.5x", "1.0x")
  ]


def test_sweep_prints_commands_that_jbin_train_reads(root, monkeypatch):
  monkeypatch.chdir(root)
  lines = _sweep(root, "--seeds=7", "--root=/r").stdout.splitlines()
  assert len(lines) == 1 + 5
  for line in lines:
    _, _, *arguments = line.split()
    _, _, config = _flags.parse(
      "train", arguments, {"workdir": ""}, needs=["workdir"], config=True
    )
    build.task(config)
    build.optimizer(config.optimizer)
  assert config.seed == 7
  assert config.model.kwargs["width"] == 2.0
  assert config.task.kwargs["teacher_workdir"] == "/r/teacher"


def test_sweep_takes_a_teacher_that_is_there(root):
  flags = ["--rows=1.0x", "--seeds=0", "--root=/r", "--teacher=/t"]
  (line,) = _sweep(root, *flags).stdout.splitlines()
  assert "--config.task.teacher_workdir=/t --workdir=/r/1.0x-0" in line


def test_sweep_makes_the_table(root, tmp_path):
  for seed, accuracy in enumerate((0.73, 0.74)):
    workdir = tmp_path / f"1.0x-{seed}"
    (workdir / "report").mkdir(parents=True)
    (workdir / "report" / "index.html").touch()
    asked = [
      f"--config={root}/configs/pokebnn_imagenet.py:1.0x",
      f"--config.seed={seed}",
      f"--config.task.teacher_workdir={tmp_path}/teacher",
    ]
    _, _, config = _flags.parse("train", asked, {}, config=True)
    config = config_lib.to_mapping(config)
    (workdir / "config.json").write_text(json.dumps(config))
    lines = [
      {"step": 9, "split": "train", "loss": 1.0},
      {"step": 9, "split": "test", "accuracy": accuracy},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (workdir / "metrics.jsonl").write_text(text)
    line = {"step": 9, "split": "train", "seconds": 7200.0}
    (workdir / "timing.jsonl").write_text(json.dumps(line) + "\n")
  readme = tmp_path / "README.md"
  readme.write_text("<!-- table --><!-- end of table -->")
  flags = ["--table", f"--root={tmp_path}", f"--readme={readme}"]
  found = _sweep(root, *flags)
  assert found.returncode == 0, found.stderr
  cells = {name: row[5:] for name, row in _rows(readme).items()}
  assert tuple(cells) == WIDTHS
  assert cells.pop("1.0x") == ["73.50 ± 0.71", "2", "2.0"]
  assert all(row == ["not run", "–", "–"] for row in cells.values())
  # It has the teacher's row, too, if the teacher is elsewhere.
  found = _sweep(root, *flags, "--teacher=/t")
  assert f"teacher_workdir: '{tmp_path}/teacher' -> '/t'" in found.stderr
  readme.with_name("gone").mkdir()
  found = _sweep(root, *flags, "--teacher=/t", f"--root={tmp_path}/gone")
  assert found.returncode == 0, found.stderr
  assert tuple(_rows(readme)) == WIDTHS


# --- The launcher -------------------------------------------------------------


def _launch(root, *arguments, **environment):
  variables = {"PROJECT": "p", "BUCKET": "b", **environment}
  return _run(root, [f"{NAME}/launch_tpu.sh", *arguments], **variables)


def test_launcher_is_bash(root):
  found = _run(root, ["bash", "-n", f"{NAME}/launch_tpu.sh"])
  assert found.returncode == 0, found.stderr


@pytest.mark.parametrize("flag", [True, False])
def test_launcher_prints_a_round(root, flag):
  found = (
    _launch(root, "--dry_run", *RUN_FLAGS, PATH="/usr/bin:/bin")
    if flag
    else _launch(root, *RUN_FLAGS, DRY_RUN="1", PATH="/usr/bin:/bin")
  )
  assert found.returncode == 0, found.stderr
  lines = found.stdout.replace("\\ ", " ").splitlines()
  commands = [line.split(" jbin ")[0] for line in lines]
  queue, ssh = "gcloud compute tpus queued-resources", "tpus tpu-vm ssh"
  assert commands[0] == f"{queue} create"
  assert commands[-1] == f"{queue} delete"
  assert "--spot" in lines[0]
  on_all = [line for line in lines if ssh in line and "--worker=all" in line]
  assert len(on_all) == 3
  train = on_all[-1]
  assert "-m jbin train --distributed" in train
  assert all(flag in train for flag in RUN_FLAGS)
  assert "--worker=0" in lines[-2]
  assert "/mnt/jbin/a/report/index.html" in lines[-2]


def test_launcher_wants_what_it_needs(root):
  assert "set BUCKET" in _launch(root, *RUN_FLAGS, BUCKET="").stderr
  elsewhere = _launch(root, RUN_FLAGS[0], "--workdir=runs/a")
  assert elsewhere.returncode == 2
  assert "--workdir must lie in /mnt/jbin" in elsewhere.stderr


GCLOUD = """#!/usr/bin/env bash
# A cloud of two files: the slice's state, and the rounds of training so far.
cd "$CLOUD"
printf '%s\\n' "${*//$'\\n'/ }" >>log
case "$*" in
  *"queued-resources create"*) echo READY >slice ;;
  *"queued-resources delete"*) rm -f slice ;;
  *"queued-resources describe"*) [[ -f slice ]] && echo ACTIVE ;;
  *"tpu-vm describe"*) cat slice ;;
  *"-m jbin train"*)
    echo round >>rounds
    [[ "$(wc -l <rounds)" -gt "$PREEMPTED" ]] && exit "$TRAIN_EXIT"
    echo PREEMPTED >slice
    exit 1
    ;;
  *"index.html"*) # there once a round has ended well
    [[ "$TRAIN_EXIT" == 0 && -f rounds && "$(wc -l <rounds)" -gt "$PREEMPTED" ]]
    ;;
esac
"""


@pytest.fixture
def cloud(tmp_path):
  path = tmp_path / "gcloud"
  path.write_text(GCLOUD)
  path.chmod(path.stat().st_mode | stat.S_IXUSR)
  return tmp_path


def _in_cloud(root, cloud, preempted, train_exit=0):
  found = _launch(
    root,
    *RUN_FLAGS,
    CLOUD=str(cloud),
    PATH=f"{cloud}:/usr/bin:/bin",
    PAUSE="0",
    PREEMPTED=str(preempted),
    TRAIN_EXIT=str(train_exit),
  )
  log = (cloud / "log").read_text()
  kinds = re.findall(r"resources (create|delete)|-m jbin (train)", log)
  return found, ["".join(kind) for kind in kinds]


def test_launcher_goes_on_after_preemptions_until_the_run_is_finished(
  root, cloud
):
  found, did = _in_cloud(root, cloud, preempted=2)
  assert found.returncode == 0, found.stderr
  assert did == ["create", "train", "delete"] * 3
  assert "finished: /mnt/jbin/a" in found.stderr


def test_launcher_gives_up_on_a_run_that_fails_without_preemption(root, cloud):
  found, did = _in_cloud(root, cloud, preempted=0, train_exit=2)
  assert found.returncode == 1
  assert did == ["create", "train", "train", "train"]
  assert "failed 3 times" in found.stderr


# --- The README ---------------------------------------------------------------


def _rows(path):
  """Width -> cells of the table of results."""
  text = path.read_text(encoding="utf-8")
  rows = [
    [cell.strip(" `") for cell in line.strip("|").split("|")]
    for line in text.splitlines()
    if re.match(r"\| `(\d|teacher)", line)
  ]
  return {row[0]: row for row in rows}


WIDTHS = ("teacher", "0.5x", "0.75x", "1.0x", "1.4x", "2.0x")


def test_readme_has_each_width_once(root):
  rows = _rows(root / NAME / "README.md")
  assert tuple(rows) == WIDTHS
  # Both of the paper's costs are ours, to the digits that it gives.
  for width in ("0.75x", "1.4x"):
    paper, ours = rows[width][2], rows[width][3]
    assert round(decimal.Decimal(ours), 1) == decimal.Decimal(paper)


@pytest.mark.parametrize(
  "width",
  [
    pytest.param(width, marks=[pytest.mark.slow] if width != "0.75x" else [])
    for width in WIDTHS
  ],
)
def test_readme_has_the_cost_of_now(root, width):
  config = f"pokebnn_imagenet.py:{width}"
  if width == "teacher":
    config = "resnet50_imagenet.py:w8a8"
  flags = [f"--config={root}/configs/{config}"]
  _, _, read = _flags.parse("cost", flags, {}, config=True)
  report = counting.cost_report(read)
  cells = _rows(root / NAME / "README.md")[width]
  assert int(decimal.Decimal(cells[3]) * 10**9) == report.ace
  assert float(cells[4].replace(",", "")) == report.weight_bytes
