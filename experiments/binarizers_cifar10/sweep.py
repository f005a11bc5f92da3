"""The runs of this experiment: every method at three seeds, on CPU cores.

From the root of the repository, with CIFAR-10 at TFDS_DATA_DIR:

  python experiments/binarizers_cifar10/sweep.py           prints the commands
  python experiments/binarizers_cifar10/sweep.py --run     runs them
  python experiments/binarizers_cifar10/sweep.py --table   results.jsonl, and
                                                           README.md's table

A finished workdir is skipped, so the same command resumes the sweep after it
was stopped; a run that was cut off begins again. `--jobs` runs go side by side,
each with its share of the cores. Compiled programs are kept in the root, for
the other seeds. Arguments after `--` go to every run:

  python experiments/binarizers_cifar10/sweep.py --run --methods=bnn,reste \
    --seeds=0 --jobs=1 -- --config.steps=100
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import queue
import shlex
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

HERE = "experiments/binarizers_cifar10"
RESULTS = "results.jsonl"
MARKS = ("<!-- table -->", "<!-- end of table -->")

_METHODS = flags.DEFINE_list("methods", [], "methods; empty: float and all")
_SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "seeds of each method")
_JOBS = flags.DEFINE_integer("jobs", 2, "runs at a time", lower_bound=1)
_ROOT = flags.DEFINE_string("root", "runs/binarizers", "folder of the workdirs")
_README = flags.DEFINE_string(
  "readme", f"{HERE}/README.md", "the file whose table --table writes"
)
_RUN = flags.DEFINE_bool("run", False, "run the commands")
_TABLE = flags.DEFINE_bool("table", False, "write the results into README.md")

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
  "method",
  "bits",
  "top-1 %, here",
  "seeds",
  "training loss, here",
  "R20, paper",
  "R18, paper",
  "BiBench, % of float",
)


def names() -> list[str]:
  """The methods asked for, or the float net and every method there is."""
  if _METHODS.value:
    return _METHODS.value
  from jbin import methods

  return ["float", *methods.REGISTRY]


def runs(extra: Sequence[str] = ()) -> dict[str, list[str]]:
  """Workdir -> arguments of `jbin train`.

  All methods at one seed, then at the next: the table has every row early, and
  compiled programs are there when the next seed needs them.
  """
  return {
    f"{_ROOT.value}/{name}-{seed}": [
      f"--config={HERE}/config.py:{name}",
      f"--config.seed={seed}",
      f"--workdir={_ROOT.value}/{name}-{seed}",
      *extra,
    ]
    for seed in _SEEDS.value
    for name in names()
  }


def finished(workdir: str | Path) -> bool:
  """Whether the run is over: its cost report is the last file it writes."""
  return Path(workdir, "report", "cost.json").is_file()


# --- Running ------------------------------------------------------------------


def shares(jobs: int) -> list[set[int]]:
  """The cores of each of the runs that go side by side; empty: all."""
  if not hasattr(os, "sched_getaffinity"):
    return [set()] * jobs
  cores = sorted(os.sched_getaffinity(0))
  if jobs > len(cores):
    return [set()] * jobs
  return [set(cores[job::jobs]) for job in range(jobs)]


def run_all(extra: Sequence[str]) -> int:
  """Runs what is not finished; a run that fails does not stop the others."""
  todo = {
    workdir: arguments
    for workdir, arguments in runs(extra).items()
    if not finished(workdir)
  }
  print(f"{len(todo)} of {len(runs(extra))} runs to do", file=sys.stderr)
  free: queue.SimpleQueue[set[int]] = queue.SimpleQueue()
  for share in shares(_JOBS.value):
    free.put(share)
  live: set[subprocess.Popen[bytes]] = set()
  stop = threading.Event()

  def run(workdir: str, arguments: Sequence[str]) -> bool:
    if stop.is_set():
      return False
    cores = free.get()
    try:
      return _run(workdir, arguments, cores, live)
    finally:
      free.put(cores)

  signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
  with concurrent.futures.ThreadPoolExecutor(_JOBS.value) as pool:
    jobs = {name: pool.submit(run, name, args) for name, args in todo.items()}
    try:
      concurrent.futures.wait(jobs.values())
    except BaseException:
      stop.set()
      for process in list(live):
        process.terminate()
      raise
  failed = [name for name, job in jobs.items() if not job.result()]
  for name in failed:
    print(f"not finished: {name}; see {name}/log.txt", file=sys.stderr)
  return 1 if failed else 0


def _run(
  workdir: str,
  arguments: Sequence[str],
  cores: set[int],
  live: set[subprocess.Popen[bytes]],
) -> bool:
  """One run, its output in log.txt; notes the seconds that it took."""
  folder = Path(workdir)
  folder.mkdir(parents=True, exist_ok=True)
  begin = time.perf_counter()
  with (
    (folder / "log.txt").open("w") as log,
    subprocess.Popen(
      [sys.executable, "-m", "jbin", "train", *arguments],
      env={**os.environ, **_environment()},
      stdout=log,
      stderr=subprocess.STDOUT,
    ) as process,
  ):
    if cores:  # before JAX counts them
      os.sched_setaffinity(process.pid, cores)
    live.add(process)
    process.wait()
    live.discard(process)
  seconds = time.perf_counter() - begin
  done = finished(folder)
  if done:
    record = {"seconds": seconds, "jobs": _JOBS.value}
    (folder / "sweep.json").write_text(json.dumps(record) + "\n")
  result = f"{seconds:.0f} s" if done else "NOT finished"
  print(f"{workdir}: {result}", file=sys.stderr, flush=True)
  return done


def _environment() -> dict[str, str]:
  return {
    "JAX_PLATFORMS": os.environ.get("JAX_PLATFORMS", "cpu"),
    "JAX_COMPILATION_CACHE_DIR": str(Path(_ROOT.value, "cache").resolve()),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5",
  }


# --- The table ----------------------------------------------------------------


def _records(path: Path, split: str) -> list[dict[str, Any]]:
  lines = path.read_text().splitlines() if path.exists() else []
  found = [json.loads(line) for line in lines]
  return [record for record in found if record["split"] == split]


def _spread(values: Sequence[float]) -> str:
  spread = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
  return f"{statistics.mean(values):.2f}{spread}"


def _bits(name: str) -> str:
  """Bits of weights and activations, as W1A1; 32 is float."""
  if name == "float":
    return "W32A32"
  from jbin import methods

  pair = methods.REGISTRY.get(name)()
  widths = {
    key: 32 if item is None else item.bits for key, item in pair.items()
  }
  return f"W{widths['kernel_quantizer']}A{widths['input_quantizer']}"


def measured(workdir: Path) -> dict[str, Any]:
  """What the table needs of a finished run."""
  name, _, seed = workdir.name.rpartition("-")
  path = workdir / "metrics.jsonl"
  train = _records(path, "train")
  note = workdir / "sweep.json"
  return {
    "method": name,
    "seed": int(seed),
    "accuracy": _records(path, "test")[-1]["accuracy"],
    "first_loss": train[0]["loss"],
    "last_loss": train[-1]["loss"],
    **(json.loads(note.read_text()) if note.is_file() else {}),
  }


def collect(path: Path) -> list[dict[str, Any]]:
  """Adds the finished runs to the file of results; returns all of them."""
  lines = path.read_text().splitlines() if path.exists() else []
  known = {(r["method"], r["seed"]): r for r in map(json.loads, lines)}
  for workdir in sorted(Path(_ROOT.value).glob("*-[0-9]*")):
    if finished(workdir):
      record = measured(workdir)
      known[record["method"], record["seed"]] = record
  records = [known[key] for key in sorted(known)]
  path.write_text("".join(json.dumps(record) + "\n" for record in records))
  return records


def row(name: str, records: Sequence[dict[str, Any]]) -> str:
  """A method's line, from its runs' results."""
  mine = [record for record in records if record["method"] == name]
  ours = "not run | – | –"
  if mine:
    first, last = (
      statistics.mean(record[key] for record in mine)
      for key in ("first_loss", "last_loss")
    )
    accuracy = _spread([100 * record["accuracy"] for record in mine])
    ours = f"{accuracy} | {len(mine)} | {first:.2f} → {last:.2f}"
  published = " | ".join(
    text or "–" for text in PUBLISHED.get(name, ("", "", ""))
  )
  return f"| `{name}` | {_bits(name)} | {ours} | {published} |"


def table(records: Sequence[dict[str, Any]]) -> str:
  """The table as Markdown, and what it took."""
  lines = [
    f"| {' | '.join(COLUMNS)} |",
    "|---" * len(COLUMNS) + "|",
    *(row(name, records) for name in names()),
  ]
  timed = [record for record in records if "seconds" in record]
  if timed:
    total = sum(record["seconds"] / record["jobs"] for record in timed)
    each = statistics.median(record["seconds"] for record in timed)
    lines += ["", f"{len(records)} runs; {each:.0f} seconds a run (median),"]
    lines[-1] += f" {total / 3600:.1f} hours in all."
  return "\n".join(lines)


def write_table(readme: Path) -> None:
  """Puts the table between the marks of a README."""
  before, found, rest = readme.read_text().partition(MARKS[0])
  _, end, after = rest.partition(MARKS[1])
  if not found or not end:
    raise SystemExit(f"{readme} lacks the marks {' and '.join(MARKS)}")
  records = collect(readme.parent / RESULTS)
  text = f"{before}{MARKS[0]}\n{table(records)}\n{MARKS[1]}{after}"
  readme.write_text(text)


def main(argv: Sequence[str]) -> int:
  extra = argv[1:]
  if not Path(HERE, "config.py").is_file():
    print(
      f"sweep.py: no {HERE}/config.py here; run it from the root of the"
      " repository",
      file=sys.stderr,
    )
    return 2
  if _TABLE.value:
    write_table(Path(_README.value))
  elif _RUN.value:
    return run_all(extra)
  else:
    for arguments in runs(extra).values():
      print(shlex.join(["jbin", "train", *arguments]))
  return 0


if __name__ == "__main__":
  app.run(main)
