"""The written limits of CONTRIBUTING.md, checked over the whole package."""

import ast
import importlib
import inspect
import pathlib
import pkgutil

import pytest

import jbin
from jbin import registry

PACKAGE = pathlib.Path(jbin.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
LONGEST = {"train/loop.py": 500}


def _relative(path: pathlib.Path) -> str:
  return path.relative_to(PACKAGE).as_posix()


def _modules():
  names = ["jbin"]
  walk = pkgutil.walk_packages(jbin.__path__, "jbin.")
  names += [module.name for module in walk]
  return [importlib.import_module(name) for name in names]


@pytest.fixture(scope="module")
def modules():
  return _modules()


@pytest.mark.parametrize("path", FILES, ids=_relative)
def test_file_fits_its_limit(path):
  lines = len(path.read_text().splitlines())
  assert lines <= LONGEST.get(_relative(path), 400)


def test_nothing_is_called_utils():
  assert not [path for path in FILES if path.stem in {"utils", "helpers"}]


# Top to bottom; a room may import those that stand after it.
ROOMS = [
  "__main__",
  "cli",
  "train",
  "report",
  "bench",
  "watch",
  "pretrained",
  "lm",
  "models",
  "data",
  "tasks",
  "optimizers",
  "convert",
  "cost",
  "nn",
  "products",
  "methods",
  "regularizers",
  "quantizers",
  "estimators",
  "schedules",
  "bits",
  "shards",
  "residuals",
  "references",
  "registry",
  "tables",
  "views",
  "errors",
]


def _rooms_imported(path):
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.ImportFrom) and node.module is not None:
      parts = node.module.split(".")
      if parts == ["jbin"]:
        yield from ((alias.name, None) for alias in node.names)
      elif parts[0] == "jbin":
        inside = [*parts[2:], *(alias.name for alias in node.names)]
        yield parts[1], next((n for n in inside if n.startswith("_")), None)


@pytest.mark.parametrize("path", FILES, ids=_relative)
def test_a_room_knows_only_rooms_below_it(path):
  room = _relative(path).split("/")[0].removesuffix(".py")
  if room == "__init__":
    return
  for other, private in _rooms_imported(path):
    if other != room:
      assert ROOMS.index(other) > ROOMS.index(room), f"{room} imports {other}"
      assert private is None, f"{room} imports {other}'s {private}"


def test_folders_nest_at_most_three_deep():
  assert all(len(path.relative_to(PACKAGE).parts) <= 4 for path in FILES)


@pytest.mark.parametrize("path", FILES, ids=_relative)
def test_functions_fit_on_a_screen(path):
  tree = ast.parse(path.read_text())
  functions = (ast.FunctionDef, ast.AsyncFunctionDef)
  long = []
  for node in ast.walk(tree):
    if isinstance(node, functions) and node.end_lineno is not None:
      body = node.body
      skip = 1 if ast.get_docstring(node) is not None else 0
      start = body[skip].lineno if len(body) > skip else node.end_lineno
      if node.end_lineno - start >= 60:
        long.append(node.name)
  if _relative(path) not in LONGEST:
    assert not long


def _public_members(module):
  for name, member in vars(module).items():
    if name.startswith("_"):
      continue
    if not (inspect.isfunction(member) or inspect.isclass(member)):
      continue
    if member.__module__ == module.__name__:
      yield f"{module.__name__}.{name}", member


def test_every_public_name_is_documented(modules):
  bare = [
    path
    for module in modules
    for path, member in _public_members(module)
    if not (member.__doc__ or "").strip()
  ]
  assert not bare


def test_every_public_function_is_typed(modules):
  bare = []
  for module in modules:
    for path, member in _public_members(module):
      if not inspect.isfunction(member) or member.__name__ == "<lambda>":
        continue
      signature = inspect.signature(member)
      hints = [p.annotation for p in signature.parameters.values()]
      if inspect.Signature.empty in [*hints, signature.return_annotation]:
        bare.append(path)
  assert not bare


def test_every_module_is_documented(modules):
  assert not [module.__name__ for module in modules if not module.__doc__]


def test_every_registry_member_has_one_line(modules):
  found = {
    id(value): value
    for module in modules
    for value in vars(module).values()
    if isinstance(value, registry.Registry)
  }
  for family in found.values():
    for name, line in family.describe():
      assert line, f"{family.family} {name!r} has no doc string"
      assert len(line) <= 100, f"{family.family} {name!r}: {line}"
