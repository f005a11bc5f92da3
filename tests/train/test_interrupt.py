"""SIGTERM sets a flag; what follows does not disturb the saving."""

import os
import signal
import subprocess
import sys

import pytest

from jbin.train import interrupt


def _signalled():
  with interrupt.Interrupt() as stop:
    assert not stop.requested
    for number in (signal.SIGTERM, signal.SIGTERM, signal.SIGINT):
      os.kill(os.getpid(), number)
      assert stop.requested
    os.kill(os.getpid(), signal.SIGINT)  # insists
    pytest.fail("goes on")


def test_sigterm_and_what_follows():
  before = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
  with pytest.raises(KeyboardInterrupt):
    _signalled()
  after = [signal.getsignal(n) for n in (signal.SIGTERM, signal.SIGINT)]
  assert after == before


def test_ctrl_c_stops_at_once():
  with pytest.raises(KeyboardInterrupt), interrupt.Interrupt() as stop:
    os.kill(os.getpid(), signal.SIGINT)
  assert not stop.requested


LEAVES = """
import os, signal
from jbin.train import interrupt
with interrupt.leaving():
  with interrupt.Interrupt() as stop:
    os.kill(os.getpid(), signal.SIGTERM)
    assert stop.requested
  os.kill(os.getpid(), signal.SIGTERM)
raise SystemExit(3)
"""


def test_outside_of_a_run_it_ends_the_process():
  done = subprocess.run(
    [sys.executable, "-c", LEAVES], capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  assert done.stderr.startswith("stopped by SIGTERM outside of the steps")
