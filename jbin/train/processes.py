"""Several processes (hosts) that train one model together: `jax.distributed`.

Each runs the same program on its own devices; process 0 also coordinates, and
writes what is written once. If one of them ends before the others, all end,
with one line that says so: see `lines`.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import re
import socket
import sys
import textwrap
import threading
from collections.abc import Generator
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils

from jbin import errors
from jbin.train import lines

PATIENCE = 300
"""Seconds that a process waits for all others to be there."""
HEARTBEAT = 100
"""Seconds after which JAX aborts for a silent one: later than `lines`."""
GRACE = 3
"""Seconds that this process has to end by itself once another one is gone."""
_AT_MOST = 20
"""Seconds that it has once it has failed."""
_CALLS = 20
"""Seconds for lines beside a launcher's job, which may do without."""
_BLOCK = 1024
"""Bytes that `agree` sends at first; longer values need a second sending."""
_MOST = 600
"""Characters of an error that the others are told."""
_FLAGS = "--coordinator=HOST:PORT --processes=N --process=I"
_OWN = (errors.UserError, errors.RunFailed, FloatingPointError)
"""Errors with a message of their own, though all processes fail alike."""
_FAILED = re.compile(r"process \d+ failed")
_SIGNS = re.compile(r"\bgloo\b|\bnccl|coordination.?service", re.IGNORECASE)


class Lost(Exception):  # noqa: N818 - reads as what it is
  """Another process of the job is gone; the message says what is known."""


# --- What all of them know ---------------------------------------------------


def first() -> bool:
  """Whether this process writes what is written once."""
  return jax.process_index() == 0


def barrier(name: str) -> None:
  """Waits until every process is here; `name` says where, alike on all."""
  if jax.process_count() > 1:
    multihost_utils.sync_global_devices(name)


def agree(value: Any) -> Any:
  """The value that process 0 gives, on every process.

  Args:
    value: what JSON knows, and small; on other processes it is not looked at.
  """
  if jax.process_count() == 1:
    return value
  text = json.dumps(value).encode() if first() else b""
  # Its length, and its beginning, in a block of one size: a single program.
  head = np.zeros(_BLOCK, np.uint8)
  begin = len(text).to_bytes(4) + text[: _BLOCK - 4]
  head[: len(begin)] = np.frombuffer(begin, np.uint8)
  found = _from_first(head)
  size, found = int.from_bytes(found[:4]), found[4:]
  if size > len(found):
    rest = np.zeros(size - len(found), np.uint8)
    if first():
      rest[:] = np.frombuffer(text[_BLOCK - 4 :], np.uint8)
    found += _from_first(rest)
  return json.loads(found[:size])


def gather(text: str) -> list[str]:
  """What each process says, by index, on every process.

  Args:
    text: cut after 1024 bytes.
  """
  if jax.process_count() == 1:
    return [text]
  block = np.zeros(_BLOCK, np.uint8)
  said = text.encode()[:_BLOCK]
  block[: len(said)] = np.frombuffer(said, np.uint8)
  found = np.asarray(multihost_utils.process_allgather(block))
  return [row.tobytes().rstrip(b"\0").decode(errors="ignore") for row in found]


def _from_first(block: np.ndarray) -> bytes:
  return np.asarray(multihost_utils.broadcast_one_to_all(block)).tobytes()


# --- Joining and leaving -----------------------------------------------------


@contextlib.contextmanager
def joined(
  coordinator: str = "", count: int | None = None, index: int | None = None
) -> Generator[None]:
  """`start`, and an end that keeps no process waiting for another.

  Inside, an error of this process is told to the others, and ends them. If
  another one is gone, this one ends at once, with one line and the code 1.
  """
  start(coordinator, count, index)
  if not jax.distributed.is_initialized():  # a job of one
    yield
    return
  try:
    yield
    barrier("jbin: all are done")
  except BaseException as error:
    _job.fail(error)
    raise
  _job.leaving.set()
  jax.distributed.shutdown()
  _job.close()


def start(
  coordinator: str = "",
  count: int | None = None,
  index: int | None = None,
  patience: float = PATIENCE,
) -> None:
  """Joins the job; to be called before anything asks for devices.

  Args:
    coordinator: "HOST:PORT" of process 0, which need not be free on others.
      With none of the three given, the launcher says all: TPU pod, SLURM,
      Open MPI, and Kubernetes with its Python package.
    count: processes in all.
    index: of this one; None: the JOB_COMPLETION_INDEX of an indexed Kubernetes
      job.
    patience: seconds to wait for the others.

  Raises:
    errors.UserError: if what is given makes no job, or the others are not
      there in time, or JAX has its devices already.
  """
  if jax.distributed.is_initialized():
    raise errors.UserError("this process has joined a job already")
  # The loop has its own handler of SIGTERM.
  jax.config.update("jax_enable_preemption_service", False)
  if not coordinator and count is None and index is None:
    _join(initialization_timeout=int(patience))
    return _job.find()
  if index is None and (said := os.environ.get("JOB_COMPLETION_INDEX")):
    if not said.isdecimal():
      raise errors.UserError(
        f"JOB_COMPLETION_INDEX is {said!r} in the environment; it must be a"
        " whole number, or unset it and give --process=I"
      )
    index = int(said)
  if not coordinator or count is None or index is None:
    given = {"coordinator": coordinator, "processes": count, "process": index}
    missing = [f"--{name}" for name, x in given.items() if x in ("", None)]
    raise errors.UserError(
      f"to join a job give {_FLAGS}; {' and '.join(missing)}"
      f" {'is' if len(missing) == 1 else 'are'} missing"
    )
  host, port = _checked(coordinator, count, index)
  if count == 1:
    return None
  inner = _job.call(host, port, count, index, patience)
  own = f"127.0.0.1:{inner}"
  return _join(
    coordinator_address=own,
    coordinator_bind_address=own,
    num_processes=count,
    process_id=index,
    initialization_timeout=int(patience),
    cluster_detection_method="deactivate",
  )


def _checked(coordinator: str, count: int, index: int) -> tuple[str, int]:
  host, _, port = coordinator.rpartition(":")
  if not (host and port.isdecimal() and 0 < int(port) < 2**16):
    raise errors.UserError(
      f"--coordinator is {coordinator!r}; it must be HOST:PORT, the name or the"
      " address of the machine of process 0 and a free port on it"
    )
  if count < 1 or not 0 <= index < count:
    raise errors.UserError(
      f"--process is {index} of --processes={count}; number them from 0 to"
      f" {max(count, 1) - 1}"
    )
  return host.strip("[]"), int(port)


def _join(**settings: Any) -> None:
  try:
    jax.distributed.initialize(heartbeat_timeout_seconds=HEARTBEAT, **settings)
  except (RuntimeError, ValueError) as error:
    text = " ".join(str(error).split())
    if "coordinator_address should be" in text:
      text = "no launcher is known here (TPU pod, SLURM, Open MPI)"
    if "must be called before" in text:
      text = "JAX has its devices already; join before anything asks for them"
    raise errors.UserError(
      f"{text[:300]}; to join a job give {_FLAGS}"
    ) from error
  # After JAX's own, so run before it: that one waits for all processes.
  atexit.register(_job.leave)


def lost(error: BaseException | None) -> Lost | None:
  """Whether an error comes of another process that is gone.

  Args:
    error: of a collective, or what such an error led to.
  """
  while error is not None:
    if isinstance(error, Lost):
      return error
    if not isinstance(error, errors.UserError) and _SIGNS.search(str(error)):
      return Lost(_goes_on("another process of the job is gone"))
    error = error.__cause__ or error.__context__
  return None


def _goes_on(said: str) -> str:
  if _FAILED.match(said):  # the cure is its own
    return f"{said}, and this one ends as well"
  return (
    f"{said}, and this one ends as well; the same command, with as many"
    " processes or another number of them, goes on from the newest checkpoint"
  )


def _last_words(error: BaseException, index: int) -> str:
  """What the others are told of an error of process `index`."""
  if isinstance(error, KeyboardInterrupt):
    return f"process {index} is gone (stopped by ^C)"
  kind = "" if isinstance(error, _OWN) else f"{type(error).__name__}: "
  text = textwrap.shorten(f"{kind}{error}", _MOST, placeholder=" ...")
  return f"process {index} failed ({text})"


class _Job:
  """The job that this process has joined, if any."""

  def __init__(self) -> None:
    self.count = 1
    self.leaving = threading.Event()
    # Set once this process ends by itself.
    self._line: lines.Server | lines.Caller | None = None
    self._index = 0
    self._words = ""
    self._news = threading.Event()
    self._last = threading.Lock()
    self._code: int | None = None

  def call(
    self, host: str, port: int, count: int, index: int, patience: float
  ) -> int:
    """Waits until all are there; the port where JAX finds its service."""
    self.count, self._index = count, index
    at = f"{host}:{port}"
    where = f"nobody answers there for {patience:g} seconds"
    try:
      if index:
        caller = lines.Caller(host, port, index, count, patience)
        self._line = caller
        caller.wait(patience + GRACE)
        caller.listen(self._gone)
        return caller.relay(patience)
      where = "it cannot be had here"
      inner = lines.free_port()
      server = self._line = lines.Server(port, inner, count, self._gone)
      if missing := server.wait(patience):
        named = ", ".join(map(str, missing))
        words = f"of {count} processes there is no {named}"
        server.tell(words)
        raise lines.Refused(f"{words} after {patience:g} seconds")
      return inner
    except lines.Refused as error:
      self.close()
      raise errors.UserError(
        f"{error}; start each process with --coordinator={at}"
        f" --processes={count} and its own --process, 0 to {count - 1}"
      ) from error
    except OSError as error:
      raise errors.UserError(
        f"--coordinator={at}: {where} ({error.strerror or error}); it must be"
        " the machine of process 0 and a free port, which the others reach"
      ) from error

  def find(self) -> None:
    """Lines for a job that the launcher made, where they can be had."""
    self.count, self._index = jax.process_count(), jax.process_index()
    if self.count == 1:
      return
    port, missing = lines.free_port(), []
    if self._index == 0:
      self._line = lines.Server(port, 0, self.count, self._gone)
    host, port = agree([socket.gethostname(), port])
    if isinstance(self._line, lines.Server):
      missing = self._line.wait(_CALLS)
    else:
      # Whoever does not get through is missed by process 0.
      with contextlib.suppress(OSError):
        self._line = lines.Caller(host, port, self._index, self.count, _CALLS)
    if missing := agree(missing):
      self.close()
      self._line = None
      if self._index == 0:
        print(
          f"note: processes {missing} do not reach port {port} of {host}; if"
          f" one is gone, JAX sees it after {HEARTBEAT} seconds",
          file=sys.stderr,
        )
    elif isinstance(self._line, lines.Caller):
      self._line.wait(_CALLS)
      self._line.listen(self._gone)

  def close(self) -> None:
    """Ends the line."""
    if self._line:
      self._line.close()

  def _gone(self, index: int, words: str) -> None:
    """Hears that another process is gone."""
    del index
    if self.leaving.is_set() or self._news.is_set():
      return
    self._words = words
    self._news.set()
    if self._index == 0 and self._line:
      self._line.tell(self._words)
    # The main thread has found out by itself, or waits for ever.
    if not self.leaving.wait(GRACE):
      self._end()

  def _end(self) -> NoReturn:
    """One line and out: any cleaner end would wait for what is gone."""
    with self._last:  # for good: a second thread waits here for the end of all
      said = self._words or "another process of the job is gone"
      print("jbin: error:", _goes_on(said), file=sys.stderr, flush=True)
      if self._line:
        self._line.tell(said)
      os._exit(1)

  def fail(self, error: BaseException) -> None:
    """This process ends by an error: its own, or that another one is gone."""
    own = isinstance(error, (*_OWN, KeyboardInterrupt))
    if lost(error) or (not own and self._news.wait(1)):
      self._news.wait(GRACE)  # its line may have more to say
      self._end()
    self.leaving.set()
    self._code = 2 if isinstance(error, errors.UserError) else 1
    if isinstance(error, KeyboardInterrupt):
      self._code = 130
    if self._line:
      self._line.tell(_last_words(error, self._index))
    # Threads that wait for other processes must not hold this one up.
    late = threading.Timer(_AT_MOST, os._exit, (self._code,))
    late.daemon = True
    late.start()

  def leave(self) -> None:
    """At exit, after all messages: does not wait for others after an error."""
    if self._code is not None:
      sys.stdout.flush()
      sys.stderr.flush()
      os._exit(self._code)


_job = _Job()
