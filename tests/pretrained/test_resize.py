"""Tables of positions, made to fit."""

import functools

import jax
import numpy as np
import pytest

from jbin import errors, pretrained
from jbin.models import _blocks
from jbin.pretrained import _resize
from tests.pretrained import toys
from tests.pretrained.small import SMALL, abstract, random, tiny_nest

# Model, argument, path of the table or tables.
CASES = {
  "vit": ({"image_size": 64}, "positions"),
  "vit smaller": ({"image_size": 16}, "positions"),
  "nest": ({"image_size": 64}, "levels/0/positions"),
  "bert": ({"max_length": 6}, "positions/embedding"),
}


@pytest.fixture(autouse=True)
def _tiny_nest(monkeypatch):
  tiny_nest(monkeypatch)


@pytest.mark.parametrize("name", CASES)
def test_only_positions_change_and_only_if_asked(name, tmp_path):
  make = SMALL[name.split()[0]]
  changes, path = CASES[name]
  model = random(make)
  pretrained.save(model, tmp_path)
  other = abstract(functools.partial(make, **changes))
  with pytest.raises(errors.UserError, match="  resize=True makes tables"):
    pretrained.load(tmp_path, other)
  found = pretrained.load(tmp_path, other, resize=True)
  made = pretrained.model(tmp_path, resize=True, **changes)
  assert toys.same(toys.arrays(made), found)
  want = toys.arrays(model)
  differ = {p for p in want if not toys.same({p: found[p]}, {p: want[p]})}
  assert path in differ
  assert all("positions" in p for p in differ)


def test_a_longer_text_has_no_positions(tmp_path):
  pretrained.save(random(SMALL["bert"]), tmp_path)
  longer = abstract(functools.partial(SMALL["bert"], max_length=11))
  with pytest.raises(errors.UserError, match="positions/embedding needs") as e:
    pretrained.load(tmp_path, longer, resize=True)
  assert "resize=" not in str(e.value)


def test_what_else_differs_is_not_hidden(tmp_path):
  pretrained.save(random(SMALL["vit"]), tmp_path)
  vit = SMALL["vit"]
  arguments = {**vit.keywords, "image_size": 64}
  make = functools.partial(vit.func, 5, **arguments)
  for resize, lines in ((False, 3), (True, 2)):
    with pytest.raises(errors.UserError) as caught:
      pretrained.load(tmp_path, abstract(make), resize=resize)
    assert f"of another shape, or type than F32, F16, BF16 ({lines})" in str(
      caught.value
    )
    assert "resize=" not in str(caught.value)


def test_the_numbers_of_a_vit():
  table = np.random.default_rng(0).normal(size=(1, 17, 3)).astype("f4")
  found = _resize.AFTER_TOKEN.run(table, (1, 37, 3))
  np.testing.assert_array_equal(found[:, 0], table[:, 0])
  image = table[0, 1:].reshape(4, 4, 3)
  want = jax.image.resize(image, (6, 6, 3), "bicubic")
  np.testing.assert_array_equal(found[0, 1:].reshape(6, 6, 3), want)


def test_the_squares_of_a_nest():
  """A table of squares is one of the image, cut as the model cuts it."""
  image = np.random.default_rng(0).normal(size=(1, 8, 8, 3)).astype("f4")
  table = np.asarray(_blocks.windows(image, 4))
  found = _resize.SQUARES.run(table, (1, 4, 36, 3))
  want = jax.image.resize(image, (1, 12, 12, 3), "bicubic")
  np.testing.assert_allclose(found, _blocks.windows(want, 6), atol=1e-6)
