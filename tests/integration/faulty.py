"""A command in a process of its own, and what is done to it.

python -m tests.integration.faulty kill|small train --config=...
"""

import os
import resource
import signal
import sys
import time

from jbin import __main__
from tests.integration import faults

AT = 11  # step


def _kill():
  """Kills this process once the checkpoint of step 8 is complete."""
  (workdir,) = [x[10:] for x in sys.argv if x.startswith("--workdir=")]
  give_up = time.monotonic() + 60
  while not os.path.isdir(f"{workdir}/checkpoints/8"):
    assert time.monotonic() < give_up
    time.sleep(0.01)
  os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
  kind, *argv = sys.argv[1:]
  if kind == "small":  # of memory
    resource.setrlimit(resource.RLIMIT_AS, (8 * 2**30, 8 * 2**30))
    sys.exit(__main__.main(argv))
  with faults.before_step(AT, _kill):
    sys.exit(__main__.main(argv))
