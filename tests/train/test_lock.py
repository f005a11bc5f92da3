"""One run at a time in a workdir."""

import errno
import fcntl

import pytest

from jbin import errors
from jbin.train import lock


def _fails(code):
  def flock(file, operation):
    del file, operation
    raise OSError(code, "not here")

  return flock


def test_the_second_one_is_told_of_the_first(tmp_path):
  with (
    lock.held(tmp_path, print),
    pytest.raises(errors.UserError, match=r"trains in .*\(process \d+ on "),
    lock.held(tmp_path, print),
  ):
    pytest.fail("two have it")
  with lock.held(tmp_path, print):  # and it is free again
    assert (tmp_path / lock.FILE).read_text().startswith("process ")


@pytest.mark.parametrize("code", sorted(lock._NO_LOCKS))
def test_a_file_system_without_locks_is_told_of(tmp_path, monkeypatch, code):
  monkeypatch.setattr(fcntl, "flock", _fails(code))
  said = []
  with lock.held(tmp_path, said.append):
    assert len(said) == 1
    assert "has no locks (not here)" in said[0]


def test_an_error_names_the_file_that_it_is_about(tmp_path, monkeypatch):
  with (
    pytest.raises(OSError, match="full") as inside,
    lock.held(tmp_path, print),
  ):
    raise OSError(errno.ENOSPC, "full")
  assert inside.value.filename is None
  monkeypatch.setattr(fcntl, "flock", _fails(errno.EIO))
  with (
    pytest.raises(OSError, match="not here") as outside,
    lock.held(tmp_path, print),
  ):
    pytest.fail("nobody has it")
  assert outside.value.filename == str(tmp_path / lock.FILE)
