"""The tree of modules: its rows and its drawing."""

import pytest
from hypothesis import given, settings, strategies as st

from jbin.report import _layers
from tests.report import conftest as made


def _layer(name, **changes):
  return made.LAYER | {"name": name} | changes


def _rows(names):
  top = _layers.tree([_layer(name) for name in names])
  return [(r.name, r.depth, r.module) for r in _layers.rows(top, (), 99)]


def test_modules_stand_above_their_layers():
  assert _rows(["a/x", "b", "a/y"]) == [
    ("a", 0, True),
    ("a/x", 1, False),
    ("a/y", 1, False),
    ("b", 0, False),
  ]


def test_a_module_of_one_layer_is_left_out():
  assert _rows(["a/b/c", "d/e/f", "d/e/g"]) == [
    ("a/b/c", 0, False),
    ("d/e", 0, True),
    ("d/e/f", 1, False),
    ("d/e/g", 1, False),
  ]


def test_one_name_may_be_a_layer_and_a_module():
  assert _rows(["a", "a/b", "a/c", "a"]) == [
    ("a", 0, False),
    ("a", 0, True),
    ("a/b", 1, False),
    ("a/c", 1, False),
    ("a", 0, False),
  ]


def test_a_module_is_the_sum_of_its_layers_even_if_rows_are_cut():
  layers = [_layer(f"m/{i}", ace=10 * i, macs=i) for i in range(1, 6)]
  module, first = _layers.rows(_layers.tree(layers), (), 1)
  assert (module.name, first.name) == ("m", "m/1")
  assert (module.macs, module.ace) == (15, 150)
  assert module.kind == "5 products"
  assert module.share == 1.0


def test_bytes_are_those_of_the_file_or_of_the_weights():
  assert _layers.amounts(_layer("a"))[2] == 2304 / 8
  assert _layers.amounts(_layer("a", weight_bytes=0))[2] == 0


def test_repeated_layers_say_so():
  top = _layers.tree([_layer("a", repeats=12)])
  assert _layers.rows(top, ["a"], 9)[0].kind.endswith(", 12 times")
  assert _layers.rows(top, ["a"], 9)[0].flagged


PATHS = st.lists(
  st.lists(st.sampled_from("abc"), min_size=1, max_size=9).map("/".join),
  min_size=1,
  max_size=30,
)


@settings(max_examples=60, deadline=None)
@given(PATHS)
def test_cells_fill_their_modules(names):
  layers = [_layer(name, macs=i, ace=i + 1) for i, name in enumerate(names)]
  drawn = _layers.icicle(_layers.tree(layers), "net", 10**6)
  assert drawn is not None
  assert drawn.cells[0].width == [100, 100, 100] or not sum(range(len(names)))
  for cell in drawn.cells:
    assert cell.y + cell.height <= drawn.height
    for x, width in zip(cell.x, cell.width, strict=True):
      assert x >= -1e-6
      assert x + width <= 100 + 1e-6
  bottom = [c for c in drawn.cells if c.y + c.height == drawn.height]
  assert sum(c.width[1] for c in bottom) == pytest.approx(100, abs=0.5)


def test_the_drawing_has_a_limit():
  layers = [_layer(f"m{i % 7}/{i}") for i in range(900)]
  drawn = _layers.icicle(_layers.tree(layers), "net", 100)
  assert drawn is not None
  assert len(drawn.cells) == 100
  assert drawn.cut == 1 + 7 + 900 - 100
  assert [c.name for c in drawn.cells[:2]] == ["net", "m0"]


def test_nothing_is_not_drawn():
  assert _layers.icicle(_layers.tree([]), "net", 9) is None
