"""The package as a user gets it: metadata, marker files, commands."""

import configparser
import importlib
import pathlib
import re

import pytest

import jbin

PACKAGE = pathlib.Path(jbin.__file__).parent


@pytest.fixture(scope="module")
def setup(root):
  parser = configparser.RawConfigParser()
  parser.read(root / "setup.cfg")
  return parser


def test_version_agrees(setup):
  assert jbin.__version__ == setup["metadata"]["version"]


def test_type_marker_is_there():
  assert (PACKAGE / "py.typed").is_file()


def test_console_script_can_be_imported(setup):
  line = setup["options.entry_points"]["console_scripts"].strip()
  module, function = line.split("=")[1].strip().split(":")
  assert callable(getattr(importlib.import_module(module), function))


def test_every_folder_with_code_is_a_package():
  # `packages = find:` leaves out a folder without __init__.py.
  folders = {path.parent for path in PACKAGE.rglob("*.py")}
  assert not [
    folder for folder in folders if not (folder / "__init__.py").is_file()
  ]


def test_every_data_file_is_declared(setup):
  declared = setup["options.package_data"]
  for path in PACKAGE.rglob("*"):
    if path.suffix in {".py", ".pyc"} or not path.is_file():
      continue
    package = ".".join(("jbin", *path.relative_to(PACKAGE).parent.parts))
    patterns = declared.get(package, "").split(",")
    assert any(path.match(pattern.strip()) for pattern in patterns), path


def test_ruff_has_one_version(setup, root):
  hooks = (root / ".pre-commit-config.yaml").read_text()
  hook = re.search(r"ruff-pre-commit\s+rev: v([\d.]+)", hooks)
  extra = re.search(r"ruff == ([\d.]+)", setup["options.extras_require"]["dev"])
  assert hook is not None
  assert extra is not None
  assert hook[1] == extra[1]


@pytest.mark.parametrize("document", ["README.md", "CONTRIBUTING.md"])
def test_make_commands_in_documents_exist(document, root):
  makefile = (root / "Makefile").read_text()
  targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
  text = (root / document).read_text()
  named = set(re.findall(r"(?:^|`)make ([a-z][a-z-]*)", text, re.MULTILINE))
  assert named
  assert named <= targets


def test_ci_runs_what_contributors_run(root):
  assert "exec make test" in (root / ".ci" / "run").read_text()
