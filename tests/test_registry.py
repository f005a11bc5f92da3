"""Registries: one lookup, one list, errors that help."""

import pytest

from jbin import errors, estimators, models, quantizers, registry, schedules

FAMILIES = {
  "estimator": estimators.REGISTRY,
  "quantizer": quantizers.REGISTRY,
  "schedule": schedules.REGISTRY,
  "model": models.REGISTRY,
}


def _family():
  family = registry.Registry("fruit")

  @family.register
  def apple():
    """Red.

    Or green.
    """

  @family.register
  def pear():
    pass

  return family, apple


def test_members_in_order_with_their_lines():
  family, apple = _family()
  assert list(family) == ["apple", "pear"]
  assert len(family) == 2
  assert "pear" in family
  assert "plum" not in family
  assert family.get("apple") is apple
  assert list(family.describe()) == [("apple", "Red."), ("pear", "")]


def test_unknown_name_gives_the_near_misses():
  family, _ = _family()
  with pytest.raises(errors.UnknownName, match="unknown fruit 'aple'; did you"):
    family.get("aple")
  with pytest.raises(errors.UserError, match="known: apple, pear"):
    family.get("xyz")


def test_a_name_is_taken_once():
  family, apple = _family()
  with pytest.raises(ValueError, match="'apple' is registered twice"):
    family.register(apple)


@pytest.mark.parametrize(("name", "family"), FAMILIES.items(), ids=FAMILIES)
def test_every_family_can_be_listed(name, family):
  assert family.family == name
  module = {"schedule": schedules, "estimator": estimators}.get(
    name, {"quantizer": quantizers, "model": models}.get(name)
  )
  for member, line in family.describe():
    if not family.get(member).__module__.startswith("jbin."):
      continue  # a test's own
    assert getattr(module, member) is family.get(member)
    assert line.endswith("."), f"{name} {member}: no one-line description"
    assert len(line) <= 80
