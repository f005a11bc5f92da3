"""Lines between the processes of a job: who is gone is known at once.

Every process holds a connection to process 0 open for as long as it lives, and
both ends say now and then that they do. When a process dies, its kernel closes
the connection; when it hangs, or its machine is lost, the line is silent. So
nobody waits for a collective that will never end, whatever carries it.

JAX's coordination service is reached through a relay in each process as well:
its own reaction to a lost process 0 is to abort with a dump of the stack, at
once, and it does not see through the relay.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable

Gone = Callable[[int, str], None]
"""Is told the index of a process whose line has ended, and what is known."""
SILENCE = 40
"""Seconds after which a process that says nothing is taken for lost."""
_EVERY = 5
"""Seconds between signs of life."""
_ALIVE = b"\0"

_HELLO = b"jbin"
_WELCOME = b"+"
_MOST = 2**16


class Refused(Exception):  # noqa: N818 - reads as what it is
  """Process 0 does not take this process; the message says why."""


class Server:
  """Process 0's end of all lines."""

  def __init__(self, port: int, inner: int, count: int, gone: Gone):
    """Takes calls from now on.

    Args:
      port: where the others call.
      inner: of this machine, where the coordination service will listen.
      count: processes, this one as well.
      gone: see `Gone`; only once all were there.

    Raises:
      OSError: if the port cannot be had.
    """
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    self._door = socket.create_server(
      ("", port), family=family, dualstack_ipv6=both
    )
    self._inner, self._count, self._gone = inner, count, gone
    self._lines: dict[int, socket.socket] = {}
    self._changed = threading.Condition()
    self._complete = False
    _start(_accept, self._door, self._take)

  def wait(self, seconds: float) -> list[int]:
    """Waits until all have called; the indices of those that have not."""
    everyone = range(1, self._count)
    with self._changed:
      self._changed.wait_for(lambda: len(self._lines) == len(everyone), seconds)
      missing = [index for index in everyone if index not in self._lines]
      self._complete = not missing
      if self._complete:
        for line in self._lines.values():
          _say(line, _WELCOME)
          _start(_live, line)
    return missing

  def tell(self, words: str) -> None:
    """Says it to all others, and ends the lines."""
    for line in list(self._lines.values()):
      _end(line, words)

  def close(self) -> None:
    """Takes no calls any more, and ends the lines."""
    _cut(self._door, *list(self._lines.values()))

  def _take(self, line: socket.socket) -> None:
    kind = _exactly(line, len(_HELLO))
    if kind == _HELLO:
      index, count = (int.from_bytes(_exactly(line, 4)) for _ in range(2))
      self._hold(line, index, count)
    elif kind:  # the coordination service is called
      inner = _call("127.0.0.1", self._inner, SILENCE)
      _say(inner, kind)
      _join(line, inner)

  def _hold(self, line: socket.socket, index: int, count: int) -> None:
    with self._changed:
      why = ""
      if count != self._count:
        why = f"process 0 was told of {self._count} processes, not of {count}"
      elif index in self._lines:
        why = f"there is another process {index} already"
      else:
        self._lines[index] = line
        self._changed.notify()
    if why:
      _end(line, why)
    words = _last_words(line, index)
    if why:
      return
    with self._changed:
      complete = self._complete
      if not complete:  # it may be started again
        del self._lines[index]
    if complete:
      self._gone(index, words)


class Caller:
  """Another process's end of its line."""

  def __init__(
    self, host: str, port: int, index: int, count: int, seconds: float
  ):
    """Calls process 0 until it answers.

    Raises:
      OSError: if it does not within `seconds`.
    """
    self._to = (host, port)
    self._line = _call(host, port, seconds)
    self._door: socket.socket | None = None
    _say(self._line, _HELLO + index.to_bytes(4) + count.to_bytes(4))
    _start(_live, self._line)

  def wait(self, seconds: float) -> None:
    """Waits until all others are there.

    Raises:
      Refused: if that is not to be.
    """
    self._line.settimeout(seconds)
    try:
      answer = self._line.recv(1)
    except OSError:
      answer = b""
    self._line.settimeout(None)
    if answer != _WELCOME:
      raise Refused(answer.decode() + _last_words(self._line, 0))

  def listen(self, gone: Gone) -> None:
    """Tells from now on when the line ends."""
    _start(lambda: gone(0, _last_words(self._line, 0)))

  def relay(self, seconds: float) -> int:
    """A port of this machine that stands for the coordination service."""
    door = self._door = socket.create_server(("127.0.0.1", 0))
    # Held open when process 0 ends: JAX would abort.
    _start(
      _accept, door, lambda line: _join(line, _call(*self._to, seconds), True)
    )
    return door.getsockname()[1]

  def tell(self, words: str) -> None:
    """Says it to process 0, and ends the line."""
    _end(self._line, words)

  def close(self) -> None:
    """Ends the line."""
    _cut(*filter(None, [self._line, self._door]))


def free_port() -> int:
  """A port of this machine that nobody listens at now."""
  with socket.create_server(("127.0.0.1", 0)) as server:
    return server.getsockname()[1]


def _start(work: Callable[..., object], *args: object) -> None:
  threading.Thread(target=work, args=args, daemon=True).start()


def _accept(
  door: socket.socket, take: Callable[[socket.socket], object]
) -> None:
  with contextlib.suppress(OSError):  # until the door is shut
    while True:
      line, _ = door.accept()
      _start(take, line)


def _call(host: str, port: int, seconds: float) -> socket.socket:
  until = time.monotonic() + seconds
  while True:
    try:
      line = socket.create_connection((host, port), timeout=min(seconds, 10))
      break
    except OSError:
      if time.monotonic() > until:
        raise
      time.sleep(0.1)
  line.settimeout(None)
  line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
  return line


def _join(
  outer: socket.socket, inner: socket.socket, hold: bool = False
) -> None:
  """Carries bytes both ways; `hold`: `outer` stays open when `inner` ends."""
  _start(_pump, outer, inner)
  _pump(inner, outer, hold)


def _pump(
  source: socket.socket, sink: socket.socket, hold: bool = False
) -> None:
  # However a line ends, it is over; who is gone is told by another one.
  with contextlib.suppress(OSError):
    while some := source.recv(_MOST):
      sink.sendall(some)
  if not hold:
    _cut(sink)


def _exactly(line: socket.socket, size: int) -> bytes:
  """So many bytes; fewer if the line ends."""
  found = b""
  with contextlib.suppress(OSError):
    while len(found) < size and (some := line.recv(size - len(found))):
      found += some
  return found


def _live(line: socket.socket) -> None:
  """Says that this process is there until nobody is there to hear it."""
  with contextlib.suppress(OSError):
    while True:
      line.sendall(_ALIVE)
      time.sleep(_EVERY)


def _last_words(line: socket.socket, index: int) -> str:
  """What a process says until its line ends, or that it said nothing."""
  found, end = b"", f"process {index} is gone"
  with line:
    try:
      line.settimeout(SILENCE)
      while some := line.recv(_MOST):
        found += some.strip(_ALIVE)
    except TimeoutError:
      end = f"process {index} has not answered for {SILENCE} seconds"
    except OSError as error:
      end = f"{end} ({error.strerror})"
  return found.decode(errors="replace") or end


def _say(line: socket.socket, what: bytes) -> None:
  with contextlib.suppress(OSError):  # nobody is there: its end is seen
    line.sendall(what)


def _end(line: socket.socket, words: str) -> None:
  _say(line, words.encode())
  with contextlib.suppress(OSError):
    line.shutdown(socket.SHUT_WR)


def _cut(*ends: socket.socket) -> None:
  """Wakes whoever waits at them, too."""
  for end in ends:
    with contextlib.suppress(OSError):
      end.shutdown(socket.SHUT_RDWR)
    end.close()
