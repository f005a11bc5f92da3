"""Every member says what it is checked against, and that is read."""

import importlib
import pathlib

import pytest

from jbin import (
  estimators,
  nn,
  optimizers,
  quantizers,
  references,
  regularizers,
)
from jbin.bench import bibench
from tests.golden import folder, members

REGISTRIES = {
  "estimators": estimators.REGISTRY,
  "quantizers": quantizers.REGISTRY,
}

# Of slugs whose files are read in several: the one with the layers.
MODULES = {"bimamba": "linears", "gptq_family": "gptq_linears"}

OTHERS = (optimizers.REGISTRY, regularizers.REGISTRY)


@pytest.mark.parametrize("family", REGISTRIES)
def test_every_member_is_listed(family):
  assert set(members.MEMBERS[family]) == set(REGISTRIES[family])


@pytest.mark.parametrize("family", REGISTRIES)
def test_what_is_named_is_read_by_a_check(family):
  for member, files in members.MEMBERS[family].items():
    if isinstance(files, str):
      continue
    for name in files:
      slug, stem = name.split("/")
      module = MODULES.get(slug, slug)
      checks = importlib.import_module(f"tests.golden.test_{module}").CHECKS
      checks = checks.get(slug, checks)
      path = pathlib.Path(slug) / f"{stem}.npz"
      assert folder.check_for(path, checks), (member, name)
      if (folder.SHARED / "golden" / slug).is_dir():
        found = (folder.SHARED / "golden" / slug).glob(f"{stem}*.npz")
        assert list(found), (member, name)


@pytest.mark.parametrize("family", REGISTRIES)
def test_every_member_cites_an_entry(family):
  entries = references.entries()
  for name in REGISTRIES[family]:
    member = REGISTRIES[family].get(name)
    if name == "delayed":
      assert references.of(quantizers.delayed(quantizers.sign(), 0.5))
      continue
    keys = references.of(member)
    assert keys, name
    assert all(key in entries for key in keys), (name, keys)


def test_every_entry_is_cited():
  cited = {
    key
    for registry in (*REGISTRIES.values(), *OTHERS)
    for name in registry
    for key in references.of(registry.get(name))
    if isinstance(key, str)
  }
  layers = [getattr(nn, name) for name in nn.__all__]
  for part in (*vars(bibench).values(), *layers):
    cited.update(references.of(part))
  assert set(references.entries()) == cited


@pytest.mark.parametrize("family", REGISTRIES)
def test_every_member_says_what_it_differs_in_and_its_value_at_zero(family):
  for name in REGISTRIES[family]:
    text = " ".join((REGISTRIES[family].get(name).__doc__ or "").split())
    assert "iffers from" in text, name
    zero = ("t zero", "t `v = 0`", "t `x = 0`", "at 0", "zero:", "= 0")
    assert any(words in text for words in zero), name
