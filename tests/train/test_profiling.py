"""A trace is written for the steps asked for, and changes no number."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from jbin import errors
from jbin.train import caching, loop, profiling


def _traces(folder):
  return sorted(folder.rglob("*.xplane.pb"))


@pytest.fixture
def calls(monkeypatch):
  """What the profiler is told, in order."""
  found = []
  for name in ("start_trace", "stop_trace"):
    note = lambda *_, name=name: found.append(name.removesuffix("_trace"))
    monkeypatch.setattr(jax.profiler, name, note)
  return found


def _steps(trace, steps, calls):
  """The profiler's calls, with each step at its place."""
  for step in steps:
    trace.before(step)
    calls.append(step)
    trace.after(step, jnp.zeros(()))
  trace.close()
  return calls


@pytest.mark.parametrize(
  ("asked", "steps", "want"),
  [
    ((2, 3), (1, 2, 3, 4), [1, "start", 2, 3, "stop", 4]),
    ((2, 0), (1, 2, 3), [1, "start", 2, "stop", 3]),
    ((0, 0), (1, 2), [1, 2]),
    ((2, 4), (3, 4, 5), ["start", 3, 4, "stop", 5]),  # goes on behind first
    ((2, 4), (5, 6), [5, 6]),  # and behind last
    ((2, 9), (1, 2, 3), [1, "start", 2, 3, "stop"]),  # is stopped before last
  ],
)
def test_the_steps_that_are_traced(asked, steps, want, calls, tmp_path):
  trace = profiling.Trace(*asked, tmp_path / "profile")
  assert _steps(trace, steps, calls) == want
  assert (tmp_path / "profile").exists() == ("start" in want)


def test_a_run_with_a_trace_has_the_same_metrics(tiny_config, tmp_path):
  changes = {"steps": 6, "log_every": 1, "eval_every": 0, "checkpoint_every": 0}
  plain, traced = tmp_path / "plain", tmp_path / "traced"
  loop.run(tiny_config(**changes), plain)
  config = tiny_config(profile={"first": 3, "last": 4})
  loop.run(config, traced)
  assert len(_traces(traced / "profile")) == 1
  assert b"train" in _traces(traced / "profile")[0].read_bytes()
  files = [path / "metrics.jsonl" for path in (plain, traced)]
  assert files[0].read_bytes() == files[1].read_bytes()
  loop.run(config, traced)  # finished: nothing more
  assert len(_traces(traced / "profile")) == 1


# --- Compiled programs that are kept ------------------------------------------

COMPILE = """
import sys
import jax, jax.numpy as jnp
from jax import monitoring
from jbin.train import caching
hits = []

def note(event, **_):
  if event.endswith("cache_hits"):
    hits.append(event)

monitoring.register_event_listener(note)
jnp.zeros(3) + 1  # JAX has looked for a cache, and there was none
caching.keep(sys.argv[1])
f = jax.jit(lambda x: jnp.sin(x) @ jnp.cos(x))
print(jax.device_get(f(jnp.ones((3, 3)))).tobytes().hex(), len(hits))
"""


def _compile(folder):
  run = subprocess.run(
    [sys.executable, "-W", "error", "-c", COMPILE, folder],
    capture_output=True,
    text=True,
    check=False,
    timeout=120,
  )
  assert run.returncode == 0, run.stderr
  numbers, hits = run.stdout.split()
  return numbers, int(hits)


def test_a_second_process_finds_small_programs_and_the_same_numbers(tmp_path):
  folder = tmp_path / "cache"
  first, hits = _compile(folder)
  assert hits == 0
  kept = sorted(folder.glob("*-cache"))
  assert kept
  second, hits = _compile(folder)
  assert hits >= len(kept)
  assert first == second
  assert sorted(folder.glob("*-cache")) == kept


def test_no_folder_no_cache(monkeypatch):
  monkeypatch.setattr(jax.config, "update", None)
  caching.keep("")


def test_a_cache_that_cannot_be_a_folder(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(errors.UserError, match=r"'compile_cache' is .*; set ano"):
    caching.keep(str(tmp_path / "file"))
