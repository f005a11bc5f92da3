"""`jbin train --dry-run`: figures of the compiled step, and no array."""

import os
import re
import subprocess
import sys

import jax
import pytest

from jbin import __main__
from tests.train.conftest import TINY

CONFIG = f"--config={TINY}"
CONFIGS = TINY.parents[2] / "configs"


def _dry(*args):
  return ["train", "--dry-run", *args]


def _rows(out):
  """{name: bytes} of the table of memory."""
  table = out.partition("memory of each device")[2].partition("\n\n")[0]
  found = re.findall(r"^(\S.*?|  that .*?)  +([\d,]+)  ", table, re.MULTILINE)
  return {name.strip(): int(n.replace(",", "")) for name, n in found}


def test_it_says_where_every_byte_is_and_makes_no_array(capsys):
  before = jax.live_arrays()
  args = ("--config.mesh.fsdp=4", "--config.model.width=64")
  assert __main__.main(_dry(CONFIG, *args)) == 0
  known = {id(x) for x in before}
  assert {id(x) for x in jax.live_arrays()} <= known
  out, _ = capsys.readouterr()
  rows = _rows(out)
  # Kernels of 1,024 elements and more are split, all else is copied.
  params = 4 * (9 * 64 + 2 * 64 + 1024 * 10 // 4 + 10)
  assert rows["parameters"] == params
  assert rows["optimizer"] == 2 * params + 4  # Adam's moments and count
  assert rows["batch"] == 64 // 4 * (8 * 8 + 1) * 4
  groups = list(rows)[: list(rows).index("all arguments")]
  now = 3 * 4  # step, progress, stop
  assert sum(rows[name] for name in groups) + now == rows["all arguments"]
  whole = rows["all arguments"] + rows["results"]
  whole += next(n for name, n in rows.items() if name.startswith("temporary"))
  assert rows["in all"] == whole - rows["that lie in donated arguments"]


def test_it_says_what_is_sent_and_where_arrays_lie(capsys):
  args = ("--config.mesh.fsdp=4", "--config.model.width=64")
  assert __main__.main(_dry(CONFIG, *args)) == 0
  out, _ = capsys.readouterr()
  assert (
    "4 x cpu of 1 process; mesh: data 1, fsdp 4, sequence 1, tensor 1" in out
  )
  assert re.search(r"^fsdp +\d+ +[\d,]+ +[\d,]+$", out, re.MULTILINE)
  kernel = re.search(r"^params\.head\.kernel .*$", out, re.MULTILINE)
  assert kernel
  assert "[1024, 10]" in kernel[0]
  assert "fsdp" in kernel[0]
  assert kernel[0].split()[-1] == "10,240"
  assert "compiled by XLA for CPUs" in out


def test_a_mesh_that_this_machine_does_not_have():
  """The devices are those of the config, in a process that has one."""
  env = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
  sizes = ("--config.mesh.data=4", "--config.mesh.fsdp=4")
  run = subprocess.run(
    [sys.executable, "-m", "jbin", *_dry(CONFIG, *sizes)],
    capture_output=True,
    text=True,
    check=False,
    timeout=240,
    env=env,
  )
  assert run.returncode == 0, run.stderr
  assert (
    "16 x cpu of 1 process; mesh: data 4, fsdp 4, sequence 1, tensor 1"
    in run.stdout
  )


@pytest.mark.parametrize(
  ("args", "message"),
  [
    (["--config.batch_size=10", "--config.mesh.fsdp=4"], "batch_size 10 is no"),
    (["--config.eval_batch_size=6", "--config.mesh.fsdp=4"], "eval_batch_size"),
    (["--config.mesh.fsdp=16"], "needs 16 devices and there are 8"),
    (["--config.mesh.fsdp=3", "--config.mesh.data=-1"], "3 does not divide 8"),
    (["--config.mesh.fsdp=-1", "--config.mesh.data=-1"], "only one axis"),
    (["--config.mesh.fsdp=0"], "'mesh.fsdp' is 0; it must be 1 or more"),
    (["--config.accumulate=5"], "'accumulate' is 5, and batch_size 64"),
  ],
)
def test_a_mesh_that_does_not_fit_is_one_line(args, message, capsys):
  assert __main__.main(_dry(CONFIG, *args)) == 2
  out, err = capsys.readouterr()
  assert message in err
  assert (out, err.count("\n")) == ("", 1)


@pytest.mark.slow
@pytest.mark.parametrize(
  ("spec", "args", "said"),
  [
    (
      "bimamba.py:780m",
      ["fsdp=4", "tensor=2", "data=1"],
      ("701,890,560 of them latent", "teacher", "65,536 tokens"),
    ),
    ("resnet50_imagenet.py:w8a8", ["data=2", "fsdp=4"], ("resnet50",)),
  ],
)
def test_large_nets(spec, args, said, capsys):
  args = [f"--config.mesh.{size}" for size in args]
  config = f"--config={CONFIGS / spec}"
  argv = _dry(config, "--config.batch_size=32", *args)
  assert __main__.main(argv) == 0
  out, _ = capsys.readouterr()
  assert all(text in out for text in said)
  assert _rows(out)["in all"] > 1e8
