"""The command line: `jbin COMMAND ...` or `python -m jbin COMMAND ...`."""

from __future__ import annotations

import importlib
import os
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


def main(argv: Sequence[str] | None = None) -> int:
  """Runs a command.

  Args:
    argv: the command and its flags; None: those of the process.

  Returns:
    The exit code: 0; 2 if the user can cure what is wrong (one line on stderr
    says how); 1 if the run failed (one line says where); 130 after ^C.
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
  except errors.UserError as error:
    return _fail(error, 2)
  except FloatingPointError as error:
    return _fail(error, 1)
  except KeyboardInterrupt:
    return _fail("stopped by ^C; a run goes on from its newest checkpoint", 130)
  except BrokenPipeError:  # whoever read the output has seen enough
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1
  except OSError as error:
    if error.filename is None:
      raise
    return _fail(f"{error.filename}: {error.strerror}", 1)
  return 0


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
      "jbin COMMAND --help lists the flags of a command. To begin:",
      "  jbin train --config=configs/quickstart.py --workdir=runs/first",
    ]
  )


if __name__ == "__main__":
  sys.exit(main())
