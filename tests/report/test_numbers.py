import math

import pytest

from jbin.report import _chart, _layers, _numbers, _read


@pytest.mark.parametrize(
  ("n", "text"),
  [
    (0, "0"),
    (7, "7"),
    (999, "999"),
    (999.4, "999"),
    (1000, "1.00 k"),
    (999_600, "1.00 M"),
    (4_222_541_824, "4.22 G"),
    (68_701_696, "68.7 M"),
  ],
)
def test_short(n, text):
  assert _numbers.short(n) == text


def test_other_forms():
  assert _numbers.size(6_451_008) == "6.45 MB"
  assert _numbers.size(12) == "12 B"
  assert _numbers.tick(2e7) == "20 M"
  assert _numbers.exact(6_451_008.0) == "6,451,008"
  assert _numbers.exact(0.5) == "0.50"
  assert _numbers.percent(0.98611) == "98.61 %"
  assert _numbers.percent(None) == "–"
  assert _numbers.value(float("inf")) == "not finite"
  assert _numbers.ratio(1024, 1) == "1,024x"
  assert _numbers.ratio(0, 1) == "–"


@pytest.mark.parametrize(
  ("pair", "tone"),
  [((1, 1), "b1"), ((1, 2), "b2"), ((8, 8), "b8"), ((8, 32), "b16")],
)
def test_tone_goes_by_the_product_of_bits(pair, tone):
  assert _layers.tone(*pair) == tone


def test_thin_keeps_the_end_and_the_mean():
  curve = _read.Curve(tuple(range(1000)), (1.0,) * 999 + (5.0,))
  thinned = _chart.thin(curve, 100)
  assert len(thinned.steps) <= 100
  assert thinned.steps[-1] == 999
  assert thinned.values[-1] == 5.0
  assert set(thinned.values[:-1]) == {1.0}


def test_path_breaks_where_a_value_is_missing():
  curve = _read.Curve((0, 1, 2, 3), (1.0, 2.0, math.nan, 3.0))
  chart = _chart.lines("Loss", [_chart.Series(curve, 0, "test", "t")], str)
  assert chart is not None
  assert chart.lines[0].path.count("M") == 2


@pytest.mark.parametrize("values", [(0.0,), (3.0, 3.0), (-1.0, 2.0), (1e-9, 1)])
def test_points_stay_in_the_frame(values):
  curve = _read.Curve(tuple(range(len(values))), values)
  for share in (False, True):
    series = [_chart.Series(curve, 0, "test", "t")]
    chart = _chart.lines("x", series, str, share and max(values) <= 1)
    assert chart is not None
    for tick in chart.y_ticks:
      assert 0 <= tick.at <= _chart.HEIGHT
    assert chart.lines[0].end is not None
    assert _chart.LEFT <= chart.lines[0].end[0] <= _chart.WIDTH


def test_nothing_to_draw():
  curve = _read.Curve((1,), (math.nan,))
  assert _chart.lines("x", [_chart.Series(curve, 0, "test", "t")], str) is None
  assert _chart.points("x", [], "x", (str, str)) is None
