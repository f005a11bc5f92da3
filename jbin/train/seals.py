"""What a checkpoint's files and arrays must be, so that damage is seen.

A seal lists size and checksum of each file; it is put beside them when all are
there. Info carries a checksum of itself and a digest of each array, so that a
checkpoint whose process died before sealing it is not read on trust either.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from jbin import errors

_SEAL = "jbin_seal.json"
_CHECKSUM = "checksum"
_WORD = 32  # bits
# Odd, so that a flipped bit at any place changes the sum; from the golden
# ratio, so that its multiples are far apart.
_SPREAD = 0x9E3779B1


class Damaged(errors.RunFailed):
  """A checkpoint that cannot be read as it was written."""


# --- Files --------------------------------------------------------------------


def seal(folder: Path) -> None:
  """Writes the seal, whole or not at all."""
  sums = {name: _checksum(path) for name, path in _files(folder).items()}
  draft = folder / (_SEAL + ".draft")
  draft.write_text(json.dumps(sums))
  os.replace(draft, folder / _SEAL)


def is_sealed(folder: Path) -> bool:
  """Whether all files were there when the seal was written."""
  return (folder / _SEAL).is_file()


def check(folder: Path) -> None:
  """Raises if a sealed file is gone or has other contents.

  Without a seal there is nothing to compare: the process died between the last
  file and the seal, or while it wrote that. Info and arrays are checked later.

  Raises:
    Damaged: naming the file.
  """
  path = folder / _SEAL
  if not path.is_file():
    return
  try:
    sums = json.loads(path.read_text())
    for name, want in sums.items():
      _check_file(folder / name, want)
  except (ValueError, AttributeError, TypeError, LookupError) as error:
    raise Damaged(f"{path} is not as it was written") from error


def _check_file(path: Path, want: list[int]) -> None:
  if not path.is_file():
    raise Damaged(f"{path} is missing")
  size = path.stat().st_size
  if size != want[0]:
    raise Damaged(f"{path} has {size} bytes, and had {want[0]}")
  if _checksum(path) != want:
    raise Damaged(f"{path} has other contents than were written")


def _files(folder: Path) -> dict[str, Path]:
  return {
    path.relative_to(folder).as_posix(): path
    for path in sorted(folder.rglob("*"))
    if path.is_file() and not path.name.startswith(_SEAL)
  }


def _checksum(path: Path) -> list[int]:
  """[size in bytes, CRC-32]."""
  size = crc = 0
  with path.open("rb") as file:
    while chunk := file.read(2**22):
      size += len(chunk)
      crc = zlib.crc32(chunk, crc)
  return [size, crc]


# --- Info ---------------------------------------------------------------------


def signed(info: Mapping[str, Any]) -> dict[str, Any]:
  """The info with a checksum of itself, as `read` asserts it."""
  plain = json.loads(json.dumps(info))
  return {**plain, _CHECKSUM: _sum_of(plain)}


def read(path: Path) -> dict[str, Any]:
  """The info in a file; of format 1, which has no checksum, as it is.

  Raises:
    Damaged: if it is not there, or not as it was written.
  """
  if not path.is_file():
    raise Damaged(f"{path} is missing, without which it is no checkpoint")
  try:
    info = json.loads(path.read_bytes())
    said = info.pop(_CHECKSUM, None)
    old = info["format"] == 1 and info["step"] >= 0 and bool(info["arrays"])
  except (ValueError, AttributeError, TypeError, LookupError) as error:
    raise Damaged(f"{path} is not as it was written") from error
  if said != _sum_of(info) and not (old and said is None):
    raise Damaged(f"{path} has other contents than were written")
  return info


def _sum_of(info: Mapping[str, Any]) -> int:
  return zlib.crc32(json.dumps(info, sort_keys=True).encode())


# --- Arrays -------------------------------------------------------------------


def digests(arrays: Mapping[str, jax.Array]) -> dict[str, int]:
  """A number for the bits of each array, the same on any mesh.

  sum_i c_i m(c_i w_i) mod 2^32 over its 32-bit words w_i, with odd c_i that
  differ from place to place and a mixing m that can be undone: one word that is
  changed always changes it. It is computed where the array lies.
  """
  # One after another: XLA on CPU has few threads, and sums of several programs
  # at once, each waiting for all devices, may take them all.
  return {name: int(jax.device_get(_digest(x))) for name, x in arrays.items()}


@jax.jit
def _digest(x: jax.Array) -> jax.Array:
  words = _words(x)
  place = jnp.zeros(words.shape, jnp.uint32)
  stride = 1
  for axis in reversed(range(words.ndim)):
    at = jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    place += at * jnp.uint32(stride % 2**_WORD)
    stride *= words.shape[axis]
  factor = (place * jnp.uint32(_SPREAD)) << 1 | 1
  # Each word is mixed with its place before the sum, in steps that can be
  # undone: alone, two flips of the highest bit would cancel.
  mixed = words * factor
  mixed ^= mixed >> 16
  mixed *= jnp.uint32(_SPREAD) << 1 | 1
  mixed ^= mixed >> 15
  return jnp.sum(mixed * factor, dtype=jnp.uint32)


def _words(x: jax.Array) -> jax.Array:
  """Its bits as uint32; of 64 bits, two words along a new axis."""
  size = jnp.dtype(x.dtype).itemsize
  if size * 8 < _WORD:
    if jnp.issubdtype(x.dtype, jnp.floating):
      kind = {1: jnp.uint8, 2: jnp.uint16}[size]
      x = jax.lax.bitcast_convert_type(x, kind)
    return x.astype(jnp.uint32)
  return jax.lax.bitcast_convert_type(x, jnp.uint32)
