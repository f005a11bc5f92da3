"""Joining a job, and what its processes know of one another."""

import os
import queue
import re
import socket
import subprocess
import sys
import time

import jax
import pytest

from jbin import __main__, errors
from jbin.train import alike, lines, processes
from tests.train import joining
from tests.train.conftest import TINY


def test_alone_nothing_is_to_be_done(tmp_path):
  assert processes.first()
  assert processes.agree({"a": [1, None]}) == {"a": [1, None]}
  assert processes.gather("me") == ["me"]
  processes.barrier("here")
  alike.check_same({})
  alike.check_shared(tmp_path / "absent")
  with processes.joined("localhost:1", 1, 0):
    assert not jax.distributed.is_initialized()


@pytest.mark.parametrize(
  ("given", "message"),
  [
    (("", 2, 0), "--coordinator is missing"),
    (("here:1", None, 0), "--processes is missing"),
    (("here:1", 2, None), "--process is missing"),
    (("", None, 1), "--coordinator and --processes are missing"),
    (("here", 2, 0), "'here'; it must be HOST:PORT"),
    (("here:http", 2, 0), "it must be HOST:PORT"),
    (("here:1", 2, 2), "--process is 2 of --processes=2; .* 0 to 1"),
    (("here:1", 0, 0), "--process is 0 of --processes=0"),
    ((), "JAX has its devices already"),
  ],
)
def test_jobs_that_cannot_be_joined(given, message):
  jax.devices()
  with pytest.raises(errors.UserError, match=message):
    processes.start(*given)


def test_the_index_of_a_kubernetes_job(monkeypatch):
  monkeypatch.setenv("JOB_COMPLETION_INDEX", "3")
  with pytest.raises(errors.UserError, match="--process is 3 of --processes=2"):
    processes.start("here:1", 2)
  monkeypatch.setenv("JOB_COMPLETION_INDEX", "abc")
  with pytest.raises(errors.UserError, match="JOB_COMPLETION_INDEX is 'abc'"):
    processes.start("here:1", 2)


def test_nobody_there():
  here = f"127.0.0.1:{lines.free_port()}"
  with pytest.raises(errors.UserError, match="nobody answers there"):
    processes.start(here, 2, 1, patience=0.3)
  with pytest.raises(errors.UserError, match="of 3 processes there is no 1, 2"):
    processes.start(here, 3, 0, patience=0.3)
  with socket.create_server(("127.0.0.1", 0)) as other:
    taken = f"127.0.0.1:{other.getsockname()[1]}"
    with pytest.raises(errors.UserError, match="it cannot be had here"):
      processes.start(taken, 2, 0, patience=0.3)


def test_flags_of_the_command(capsys, tmp_path):
  command = ["train", f"--config={TINY}", f"--workdir={tmp_path}"]
  assert __main__.main([*command, "--processes=two"]) == 2
  assert "--processes is 'two'" in capsys.readouterr().err
  assert __main__.main([*command, "--process=0"]) == 2
  assert "--coordinator and --processes are" in capsys.readouterr().err


@pytest.fixture
def heard():
  """What processes heard: (which, of which, its last words)."""
  return queue.Queue()


@pytest.fixture
def port():
  return lines.free_port()


@pytest.fixture
def server(heard, port):
  made = lines.Server(
    port, lines.free_port(), 3, lambda *news: heard.put((0, *news))
  )
  yield made
  made.close()


@pytest.fixture
def call(server, port):
  made = []

  def calling(index, count=3):
    made.append(lines.Caller("127.0.0.1", port, index, count, 5))
    return made[-1]

  yield calling
  for caller in made:
    caller.close()


def _until(condition):
  give_up = time.monotonic() + 20
  while not condition():
    assert time.monotonic() < give_up
    time.sleep(0.001)


def test_lines_tell_who_is_gone_and_why(server, call, heard):
  callers = [call(1), call(2)]
  assert server.wait(5) == []
  for i, caller in enumerate(callers, 1):
    caller.wait(5)
    caller.listen(lambda *news, i=i: heard.put((i, *news)))
  callers[1].tell("the disk is full")
  # Lines that have ended are closed, which the other ends hear, in any order.
  own = (0, 2, "the disk is full")
  news = [heard.get(timeout=5)]
  while own not in news:
    news.append(heard.get(timeout=5))
  server.tell("process 2 failed")
  news += [heard.get(timeout=5) for _ in range(4 - len(news))]
  assert (1, 0, "process 2 failed") in news
  news.remove(own)
  assert {(who, whom) for who, whom, _ in news} == {(1, 0), (2, 0), (0, 1)}
  words = [words for who, _, words in news if who == 0]
  assert words[0].startswith("process 1 is gone")


def test_silence_is_heard(server, call, heard, monkeypatch):
  monkeypatch.setattr(lines, "SILENCE", 1.5)
  monkeypatch.setattr(lines, "_live", lambda line: None)
  callers = [call(1), call(2)]
  assert server.wait(5) == []
  for caller in callers:
    caller.wait(5)
  news = sorted(heard.get(timeout=5) for _ in callers)
  words = "process {} has not answered for 1.5 seconds"
  assert news == [(0, i, words.format(i)) for i in (1, 2)]


@pytest.mark.parametrize(
  ("index", "count", "message"),
  [
    (1, 3, "there is another process 1 already"),
    (2, 2, "was told of 3 processes, not of 2"),
  ],
)
def test_who_is_not_taken(server, call, index, count, message):
  call(1)
  _until(lambda: 1 in server._lines)
  with pytest.raises(lines.Refused, match=message):
    call(index, count).wait(5)


def test_who_dies_early_may_come_again(server, call):
  before = call(1)
  _until(lambda: 1 in server._lines)
  before.close()
  _until(lambda: 1 not in server._lines)
  again = call(1)
  call(2)
  assert server.wait(5) == []
  again.wait(5)


def test_errors_of_another_process():
  gloo = ValueError(
    "UNKNOWN: Gloo all-reduce failed: Connection closed by peer"
  )
  assert "another process" in str(processes.lost(gloo))
  damaged = errors.UserError("checkpoint 3 cannot be read")
  damaged.__cause__ = gloo
  assert processes.lost(damaged)
  assert processes.lost(errors.UserError("no folder gloo")) is None
  assert processes.lost(ValueError("mine")) is None


def test_what_the_others_are_told_of_an_error():
  long = errors.RunFailed(f"the disk is\nfull {'and so on ' * 99}")
  said = processes._last_words(long, 3)
  assert said.startswith("process 3 failed (the disk is full and so on")
  assert re.search(r" (and|so|on) \.\.\.\)$", said)  # no half word
  assert 590 < len(said) < 630
  assert "newest checkpoint" not in processes._goes_on(said)
  said = processes._last_words(KeyError("x"), 1)
  assert said == "process 1 failed (KeyError: 'x')"
  said = processes._last_words(KeyboardInterrupt(), 1)
  assert said == "process 1 is gone (stopped by ^C)"
  assert "newest checkpoint" in processes._goes_on(said)


@pytest.mark.parametrize("launcher", ["", "slurm"])
def test_two_processes_agree(root, launcher):
  here = f"127.0.0.1:{lines.free_port()}"
  flags = "--xla_force_host_platform_device_count=2"
  slurm = {
    "SLURM_JOB_ID": "1",
    "SLURM_STEP_NODELIST": "localhost",
    "SLURM_NTASKS": "2",
    "SLURM_LOCALID": "0",
    "JAX_COORDINATOR_PORT": here.split(":")[1],
  }
  running = [
    subprocess.Popen(
      [
        *(sys.executable, "-m", joining.__name__),
        *([] if launcher else [here, str(i)]),
      ],
      cwd=root,
      env={
        **os.environ,
        "XLA_FLAGS": flags,
        **({**slurm, "SLURM_PROCID": str(i)} if launcher else {}),
      },
      stdout=subprocess.PIPE,
      stderr=subprocess.PIPE,
      text=True,
    )
    for i in range(2)
  ]
  ends = [process.communicate(timeout=240) for process in running]
  assert [process.returncode for process in running] == [0, 0], ends
  assert all("well" in out for out, _ in ends)
