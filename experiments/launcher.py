"""The runs of an experiment: rows times seeds, resumed, gathered in a table.

An experiment's `sweep.py` says what its rows are (`Experiment`) and calls
`main`. From the root of the repository:

  python experiments/NAME/sweep.py          prints the commands
  python experiments/NAME/sweep.py --run    runs them
  python experiments/NAME/sweep.py --table  results.jsonl, and README's table

A finished workdir is skipped and an unfinished one goes on, so the same command
resumes the sweep; a workdir with a run of another config is refused, by --table
too, which therefore takes the flags that --run had. `--jobs` runs go side by
side, each with its share of the cores; a run that fails stops only those that
come after it. Compiled programs are kept in the root, for the other seeds.
Arguments after `--` go to every run. A root has one sweep at a time.

With `--launcher` each run is handed to a command (a TPU's, a cluster's) that
takes the arguments of `jbin train`. Its workdirs may be elsewhere, so --run
then neither looks at their configs nor keeps another sweep away.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import app, flags

from experiments import results, workdirs

RESULTS, LOG = "results.jsonl", "log.txt"
MARKS = ("<!-- table -->", "<!-- end of table -->")

ROWS = flags.DEFINE_list("rows", [], "rows to run or collect; empty: all")
SEEDS = flags.DEFINE_list("seeds", ["0", "1", "2"], "seeds of each row")
JOBS = flags.DEFINE_integer("jobs", 2, "runs at a time", lower_bound=1)
ROOT = flags.DEFINE_string("root", "", "folder of the workdirs; runs/NAME")
README = flags.DEFINE_string(
  "readme", "", "the file whose table --table writes"
)
LAUNCHER = flags.DEFINE_string(
  "launcher", "", "runs `jbin train` with these arguments; empty: here"
)
RUN = flags.DEFINE_bool("run", False, "run the commands")
TABLE = flags.DEFINE_bool("table", False, "write the results into the README")


@dataclasses.dataclass(frozen=True)
class Run:
  """A row of the table: one run for each seed.

  Attributes:
    config: FILE.py or FILE.py:ARG.
    overrides: config keys and their values; "{after}" in one becomes the
      workdir of that run.
    after: the row whose run of the same seed has to be finished before.
    seeded: False for one run that all seeds share.
  """

  config: str
  overrides: Mapping[str, Any] = dataclasses.field(default_factory=dict)
  after: str = ""
  seeded: bool = True


@dataclasses.dataclass(frozen=True)
class Experiment:
  """An experiment.

  Attributes:
    folder: where it is, from the root of the repository.
    rows: makes name -> run, in the order of the table.
    columns: of the table, after the row's name.
    cells: (name of a row, records of its finished runs) -> a text for each
      column; `records` is empty for a row that was not run.
  """

  folder: str
  rows: Callable[[], Mapping[str, Run]]
  columns: Sequence[str]
  cells: Callable[[str, Sequence[results.Record]], Sequence[str]]

  @property
  def root(self) -> str:
    """The folder of the workdirs."""
    return ROOT.value or f"runs/{Path(self.folder).name}"

  def workdir(self, name: str, run: Run, seed: int) -> str:
    """Of a row's run."""
    return f"{self.root}/{name}" + (f"-{seed}" if run.seeded else "")


@dataclasses.dataclass(frozen=True)
class Task:
  """One run of `jbin train`."""

  workdir: str
  arguments: tuple[str, ...]
  after: str  # a workdir, or ""


def task_of(
  experiment: Experiment,
  rows: Mapping[str, Run],
  name: str,
  seed: int,
  extra: Sequence[str] = (),
) -> Task:
  """A row's run at a seed."""
  run, own = rows[name], experiment.workdir(name, rows[name], seed)
  after = run.after
  if after:
    after = experiment.workdir(after, rows[after], seed)
  arguments = [f"--config={run.config}"]
  if run.seeded:
    arguments.append(f"--config.seed={seed}")
  for key, value in run.overrides.items():
    text = str(value).replace("{after}", after)
    arguments.append(f"--config.{key}={text}")
  return Task(own, (*arguments, f"--workdir={own}", *extra), after)


def tasks(experiment: Experiment, extra: Sequence[str] = ()) -> list[Task]:
  """What to run: all rows at one seed, then at the next.

  The table so has every row early, and compiled programs are there when the
  next seed needs them. Rows that others come after are added, before them.
  """
  rows = experiment.rows()
  names: list[str] = []

  def add(name: str, later: tuple[str, ...] = ()) -> None:
    if name in later:
      raise SystemExit(f"row {name} comes after itself")
    if rows[name].after:
      add(rows[name].after, (*later, name))
    if name not in names:
      names.append(name)

  for name in chosen(rows):
    add(name)
  found: dict[str, Task] = {}
  for seed in seeds():
    for name in names:
      task = task_of(experiment, rows, name, seed, extra)
      found.setdefault(task.workdir, task)
  return [*found.values()]


def chosen(rows: Iterable[str]) -> list[str]:
  """The names that --rows has, or all, in the table's order."""
  known = [*rows]
  if unknown := [name for name in ROWS.value if name not in known]:
    raise SystemExit(f"no row {unknown[0]!r}; there are {', '.join(known)}")
  return [name for name in known if not ROWS.value or name in ROWS.value]


def seeds() -> list[int]:
  """Those that --seeds has."""
  texts = SEEDS.value
  found = {int(text) for text in texts if text.isdecimal()}
  if not texts or len(found) < len(texts):
    raise SystemExit(
      f"--seeds={','.join(texts)}: it takes distinct whole numbers, 0 or more,"
      " such as 0,1,2"
    )
  return [int(text) for text in texts]


# --- Running ------------------------------------------------------------------


def shares(jobs: int) -> list[set[int]]:
  """The cores of each of the runs that go side by side; empty: all."""
  known = hasattr(os, "sched_getaffinity")
  cores = sorted(os.sched_getaffinity(0)) if known else []
  enough = len(cores) >= jobs
  return [set(cores[job::jobs]) if enough else set() for job in range(jobs)]


class _Sweep:
  """Runs that go on side by side, and those that wait for one of them."""

  def __init__(self, root: str, every: Sequence[Task], lock: int | None):
    self.root = root
    self.inherited = [] if lock is None else [lock]
    self.good = {*filter(workdirs.finished, (t.workdir for t in every))}
    self.todo = [task for task in every if task.workdir not in self.good]
    self.failed: list[Task] = []
    self.live: set[subprocess.Popen[bytes]] = set()
    self.stopped = False
    self.changed = threading.Condition()

  def work(self, cores: set[int]) -> None:
    """Runs one after the other until there are none that can begin."""
    if cores:  # of this thread; its runs inherit them, before JAX counts
      os.sched_setaffinity(0, cores)
    while (task := self._next()) is not None:
      self._end(task, self._run(task))

  def stop(self) -> None:
    """Lets no other run begin, and those that go on save and leave."""
    with self.changed:
      self.stopped = True
      for process in list(self.live):
        process.terminate()
      self.changed.notify_all()

  def _next(self) -> Task | None:
    """The first task that can begin, waiting for it; None: no more."""
    with self.changed:
      while self.todo and not self.stopped:
        for task in self.todo:
          if not task.after or task.after in self.good:
            self.todo.remove(task)
            return task
        self.changed.wait()
      return None

  def _end(self, task: Task, good: bool) -> None:
    """Notes how a task ended; those that come after a failure end as well."""
    with self.changed:
      if good:
        self.good.add(task.workdir)
      else:
        self.failed.append(task)
        for other in [t for t in self.todo if t.after == task.workdir]:
          self.todo.remove(other)
          self._end(other, False)
      self.changed.notify_all()

  def _run(self, task: Task) -> bool:
    """One run, its output in log.txt; whether it is over and good."""
    folder = Path(task.workdir)
    here = not LAUNCHER.value
    command = shlex.split(LAUNCHER.value)
    if here:
      folder.mkdir(parents=True, exist_ok=True)
      command = [sys.executable, "-m", "jbin", "train"]
    begin = time.perf_counter()
    with (folder / LOG).open("a") if here else contextlib.nullcontext() as log:
      with self.changed:
        if self.stopped:
          return False
        process = subprocess.Popen(
          [*command, *task.arguments],
          env=workdirs.environment(self.root) if here else None,
          stdout=log,
          stderr=subprocess.STDOUT if here else None,
          start_new_session=here,  # ^C is for `stop` to pass on
          pass_fds=self.inherited,
        )
        self.live.add(process)
      code = process.wait()
    self.live.discard(process)
    seconds = time.perf_counter() - begin
    # A launcher's workdir may be on another machine: it says by its exit code
    # whether the run is over. One that SIGTERM stopped here exits with 0.
    good = workdirs.finished(folder) if here else code == 0
    if here:
      note = folder / results.NOTE  # of all parts of a run that was stopped
      before = json.loads(note.read_text())["seconds"] if note.is_file() else 0
      record = {"seconds": before + seconds, "jobs": JOBS.value}
      note.write_text(json.dumps(record) + "\n")
    how = f"{seconds:.0f} s" if good else "NOT finished"
    print(f"{task.workdir}: {how}", file=sys.stderr)
    return good


def run_all(experiment: Experiment, extra: Sequence[str]) -> int:
  """Runs what is not finished; 1 if a run is not over at the end."""
  every = tasks(experiment, extra)
  if LAUNCHER.value:
    if not shutil.which(shlex.split(LAUNCHER.value)[0]):
      raise SystemExit(f"--launcher: {LAUNCHER.value!r} is no program")
    return _run_all(experiment.root, every, None)
  with workdirs.locked(experiment.root) as lock:
    workdirs.check({task.workdir: task.arguments for task in every})
    return _run_all(experiment.root, every, lock)


def _run_all(root: str, every: Sequence[Task], lock: int | None) -> int:
  sweep = _Sweep(root, every, lock)
  print(f"{len(sweep.todo)} of {len(every)} runs to do", file=sys.stderr)
  for number in (signal.SIGTERM, signal.SIGINT):
    signal.signal(number, lambda number, _: sys.exit(128 + number))
  with concurrent.futures.ThreadPoolExecutor(JOBS.value) as threads:
    try:
      each = shares(JOBS.value)
      workers = [threads.submit(sweep.work, cores) for cores in each]
      concurrent.futures.wait(workers, return_when="FIRST_EXCEPTION")
      for worker in workers:
        worker.result()
    except BaseException:
      sweep.stop()
      raise
  for task in sweep.failed:
    why = "" if LAUNCHER.value else f"; see {task.workdir}/{LOG}"
    if task.after and task.after not in sweep.good:
      why = f": {task.after} is missing"
    print(f"not finished: {task.workdir}{why}", file=sys.stderr)
  return 1 if sweep.failed else 0


# --- The table ----------------------------------------------------------------


def collect(
  experiment: Experiment, path: Path, extra: Sequence[str]
) -> list[results.Record]:
  """Adds the finished runs to the file of results; returns all of them.

  Those of rows that there are no more are dropped.
  """
  rows, found = experiment.rows(), results.lines_of(path)
  done: dict[tuple[str, int], Task] = {}
  for name in chosen(rows):
    for seed in seeds() if rows[name].seeded else [0]:
      task = task_of(experiment, rows, name, seed, extra)
      if workdirs.finished(task.workdir):
        done[name, seed] = task
  workdirs.check({task.workdir: task.arguments for task in done.values()})
  if gone := sorted({record["row"] for record in found} - {*rows}):
    print(f"{path}: dropped {', '.join(gone)}: no such row", file=sys.stderr)
  known = {
    (record["row"], record["seed"]): record
    for record in found
    if record["row"] in rows
  }
  for (name, seed), task in done.items():
    known[name, seed] = results.measured(name, seed, Path(task.workdir))
  records = [known[key] for key in sorted(known)]
  if records or found:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
  return records


def table(experiment: Experiment, records: Sequence[results.Record]) -> str:
  """The table as Markdown, and what it took."""
  columns = ("row", *experiment.columns)
  lines = [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]
  for name in experiment.rows():
    mine = [record for record in records if record["row"] == name]
    cells = [cell or "–" for cell in experiment.cells(name, mine)]
    lines.append(f"| {' | '.join([f'`{name}`', *cells])} |")
  if took := results.took(records):
    lines += ["", took]
  return "\n".join(lines)


def write_table(experiment: Experiment, extra: Sequence[str]) -> None:
  """Puts the table between the marks of a README."""
  readme = Path(README.value or f"{experiment.folder}/README.md")
  before, found, rest = readme.read_text().partition(MARKS[0])
  _, end, after = rest.partition(MARKS[1])
  if not found or not end:
    raise SystemExit(f"{readme} lacks the marks {' and '.join(MARKS)}")
  text = table(experiment, collect(experiment, readme.parent / RESULTS, extra))
  readme.write_text(f"{before}{MARKS[0]}\n{text}\n{MARKS[1]}{after}")


def main(experiment: Experiment) -> None:
  """The command line of an experiment's `sweep.py`."""

  def run(argv: Sequence[str]) -> int:
    folder, extra = experiment.folder, argv[1:]
    if not Path(folder, "sweep.py").is_file():
      raise SystemExit(f"no {folder} here; run it from the repository's root")
    if TABLE.value:
      write_table(experiment, extra)
    elif RUN.value:
      return run_all(experiment, extra)
    else:
      for task in tasks(experiment, extra):
        print(shlex.join(["jbin", "train", *task.arguments]))
    return 0

  app.run(run)
