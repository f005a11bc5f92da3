"""The command line: `jbin COMMAND ...` or `python -m jbin COMMAND ...`."""

from __future__ import annotations

import errno
import importlib
import os
import re
import sys
from collections.abc import Sequence

from jbin import errors

COMMANDS = {
  "train": "train a config, or go on where its workdir stands",
  "eval": "the metrics of a workdir's newest checkpoint",
  "generate": "text from a workdir's newest checkpoint, as it is made",
  "cost": "MACs, ACE and bytes of a config's model, without running it",
  "plan": "what a config's rules do to its model, layer by layer",
  "list": "every name that a config can use, with one line each",
  "report": "one HTML page and a table that compare finished runs",
}
EXIT_CODES = {
  0: "done, or stopped by SIGTERM and saved: the same command goes on",
  1: "the run failed: a full disk, memory, values that are not finite",
  2: "something to set right first: a flag, a config key, a file, a workdir",
  130: "stopped by ^C",
}


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a command.

  Args:
    argv: the command and its flags; None: those of the process.

  Returns:
    The exit code, one of `EXIT_CODES`. What is wrong is one line on stderr; a
    bug of jbin is a traceback, and nothing else is.
  """
  args = list(sys.argv[1:] if argv is None else argv)
  if not args or args[0] in ("help", "--help", "-h"):
    print(_help())
    return 0
  command, *rest = args
  try:
    if command not in COMMANDS:
      raise errors.UnknownName("command", command, COMMANDS)
    module = importlib.import_module(f"jbin.cli.{command}")
    module.main(rest)
  except KeyboardInterrupt:
    return _fail("stopped by ^C; a run goes on from its newest checkpoint", 130)
  except BrokenPipeError:  # whoever read the output has seen enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
  except errors.UserError as error:
    return _fail(error, 2)
  except (errors.RunFailed, FloatingPointError) as error:
    return _fail(error, 1)
  except OSError as error:
    return _fail(_system(error), 1)
  except (RuntimeError, MemoryError) as error:
    if not errors.is_memory(error):
      raise
    return _fail(_memory(error), 1)
  return 0


def _system(error: OSError) -> str:
  """What the operating system refused, and the cure."""
  names = [str(name) for name in (error.filename, error.filename2) if name]
  said = error.strerror or str(error) or type(error).__name__
  cure = _CURES.get(error.errno or 0, "")
  return "".join([*(f"{name}: " for name in names), said, cure])


def _memory(error: BaseException) -> str:
  """What was asked for, and what to do with less."""
  found = re.search(r"allocat\w* ([\d.]+ ?\w*)", str(error))
  what = f" (for {found[1]})" if found else ""
  where = "the host" if isinstance(error, MemoryError) else "a device"
  return (
    f"{where} is out of memory{what}; set a smaller batch_size, accumulate=2 or"
    " more, remat in the model, or more devices along mesh.fsdp; jbin train"
    " --dry-run says what a config takes; a run goes on from its newest"
    " checkpoint"
  )


_ROOM = "; make room there; a run goes on from its newest checkpoint"
_PLACE = "; name another place, such as --workdir, or let it be written to"
_CURES = {
  errno.ENOSPC: _ROOM,
  errno.EDQUOT: _ROOM,
  errno.EFBIG: _ROOM,
  errno.EACCES: _PLACE,
  errno.EPERM: _PLACE,
  errno.EROFS: _PLACE,
  errno.EEXIST: _PLACE,
  errno.ENOTDIR: _PLACE,
}


def _fail(error: object, code: int) -> int:
  print("jbin: error:", " ".join(str(error).split()), file=sys.stderr)
  return code


def _help() -> str:
  lines = [f"  {name:<10}{line}" for name, line in COMMANDS.items()]
  return "\n".join(
    [
      "usage: jbin COMMAND [--config=FILE.py[:ARG]] [--config.KEY=VALUE ...]",
      "",
      *lines,
      "",
      "Exit codes:",
      *(f"  {code:<10}{line}" for code, line in EXIT_CODES.items()),
      "",
      "jbin COMMAND --help lists the flags of a command. To begin:",
      "  jbin train --config=configs/quickstart.py --workdir=runs/first",
    ]
  )


if __name__ == "__main__":
  sys.exit(main())
