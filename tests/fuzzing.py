"""Configs with one thing wrong, and what an error has to say of it."""

import copy
import dataclasses
import functools
import pathlib
import re
from typing import Any

import hypothesis.strategies as st

from jbin.cli import _flags

_ROOT = pathlib.Path(__file__).resolve().parent.parent
# Small nets: making one without arrays takes tenths of a second.
SPECS = {
  "tests/train/tiny.py": {},
  "configs/quickstart.py": {},
  "configs/resnet_cifar10.py:reste": {"model.blocks": 1},
  "configs/resnet_cifar10.py:bop": {"model.blocks": 1, "mesh.data": 1},
  "configs/bimamba_text.py:bimamba": {},
  "configs/bimamba_text.py:fbi_llm": {},
  "configs/bivit_cifar10.py:bivit": {"task.teacher_workdir": "none"},
  "configs/ecoformer_cifar10.py:hash": {},
  "configs/bibert_glue.py": {},
}
# What takes the time of a larger net, or of reading more.
MORE = {
  "configs/resnet_cifar10.py:siman": {"model.blocks": 1},
  "configs/bibert_sst.py": {},
  "configs/bipft.py": {},
  "configs/bimamba.py:780m": {},
  "configs/ecoformer_imagenet.py": {},
  "configs/pokebnn_cifar10.py": {},
}
VALUES = [
  None,
  True,
  False,
  "",
  "x",
  b"x",
  object(),
  0,
  -1,
  1,
  3,
  7,
  -7,
  48,
  0.5,
  -0.5,
  1.5,
  float("nan"),
  float("inf"),
  float("-inf"),
  1e30,
  10**12,
  2**31,
  2**63,
  [],
  {},
  [1],
  [0],
  [-1],
  ["a"],
  [None],
  [1, 1, 1],
  [7, 7],
  {"name": "x"},
  {"name": None},
  {"nme": 1},
  {"name": "linear"},
  {"name": "linear", "start": 1.0, "end": 0.0},
  {"name": "linear", "start": float("nan"), "end": 0.0},
  {"name": "cosine", "start": 1.0, "end": "b"},
  {"name": "sign"},
]
CURE = re.compile(
  r"must|set |choose|give|leave|take|did you mean|known: |change|needs|see "
)


@dataclasses.dataclass(frozen=True)
class Case:
  """A config with one thing changed."""

  spec: str
  key: str
  # Dotted; of the change.
  what: str
  values: Any = dataclasses.field(repr=False)
  free: bool = False
  # Whether defaults take over, so that the error may be about another key.


@functools.cache
def base(spec):
  """The config of a file as dicts and lists."""
  values = _lists(_flags.load(str(_ROOT / spec)).to_dict())
  for path, value in (SPECS | MORE)[spec].items():
    group, key = path.split(".")
    values[group][key] = value
  return values


def _lists(values):
  if isinstance(values, dict):
    return {key: _lists(item) for key, item in values.items()}
  return (
    [_lists(item) for item in values]
    if isinstance(values, list | tuple)
    else values
  )


def _paths(values, path=()):
  """The place of each value and of each group."""
  items = values.items() if isinstance(values, dict) else enumerate(values)
  for key, item in items:
    yield (*path, key)
    if isinstance(item, dict | list):
      yield from _paths(item, (*path, key))


def _dotted(path):
  return ".".join(map(str, path))


@st.composite
def cases(draw, specs):
  """A wrong type or value, an unknown name or key, or a missing key."""
  spec = draw(st.sampled_from(specs))
  values = copy.deepcopy(base(spec))
  *path, key = draw(st.sampled_from(list(_paths(values))))
  group = functools.reduce(lambda group, key: group[key], path, values)
  kind = draw(st.sampled_from(["value"] * 6 + ["missing", "typo", "name"]))
  where = _dotted((*path, key))
  if kind == "missing" and isinstance(group, dict):
    del group[key]
    return Case(spec, where, "missing", values, free=True)
  if kind == "typo" and isinstance(group, dict):
    i = draw(st.integers(0, len(key)))
    typo = f"{key[:i]}{draw(st.sampled_from('aexyz_'))}{key[i:]}"
    group[typo] = group[key]
    return Case(spec, _dotted((*path, typo)), "is a key", values)
  if kind == "name" and isinstance(group[key], str):
    group[key] += "q"
  else:
    group[key] = copy.copy(draw(st.sampled_from(VALUES)))
  return Case(spec, where, repr(group[key]), values)


def complaints(case, message):
  """What is wrong with an error's message; nothing if it is good."""
  found = []
  if "\n" in message:
    found.append("several lines")
  if len(message) > 1000:
    found.append("too long")
  names = [key for key in case.key.split(".") if not key.isdigit()]
  if names[-1] == "name":  # its group is named, or what is of that name
    names.pop()
  if names[-1] not in message and not case.free:
    found.append(f"does not name {names[-1]!r}")
  if not CURE.search(message):
    found.append("no cure")
  return found
