"""What differs between two cost reports, in every form."""

import copy
import csv
import io
import json

import pytest

from jbin import errors, report
from tests.report import conftest as made
from tests.report.test_cost_page import EVIL
from tests.report.test_page import _Page


def _pair():
  """One layer wider, one gone, one new."""
  a, b = made.everything("before"), made.everything("after")
  b["layers"][0] |= {"lhs_bits": 1, "rhs_bits": 1, "ace": 147456}
  b["layers"][0]["weight_bytes"] = 288
  gone = b["layers"].pop(3)
  b["layers"].insert(5, gone | {"name": "blocks/9/new", "phase": "forward"})
  b["totals"]["ace"] = a["totals"]["ace"] // 4
  return a, b


@pytest.fixture
def found():
  return report.diff(*_pair(), ("old", "new"))


def test_layers_are_joined_by_path(found):
  assert found.counts == {"changed": 1, "added": 1, "removed": 1, "same": 6}
  assert [(line.name, line.change) for line in found.changed] == [
    ("stem/conv", "bits, ACE, bytes"),
    ("blocks/1/a", "removed"),
    ("blocks/9/new", "added"),
  ]
  names = [line.name for line in found.lines]
  assert names.index("blocks/9/new") == names.index("blocks/2/a") + 1


def test_a_report_is_the_same_as_itself():
  a = made.everything()
  found = report.diff(a, copy.deepcopy(a), ("x", "y"))
  assert not found.changed
  assert {t.ratio for t in found.totals} == {"same"}
  assert "Layers: 8 same." in report.diff_table(found)
  assert "the same layers" in report.diff_page(found)


def test_one_path_with_several_products_is_joined_in_order():
  a, b = made.cost(layers=1), made.cost(layers=1)
  row = a["layers"][0] | {"name": "shared"}
  a["layers"] = [row, row | {"macs": 5, "ace": 5}]
  b["layers"] = [row, row | {"macs": 7, "ace": 7}, row]
  found = report.diff(a, b, ("x", "y"))
  assert [line.change for line in found.lines] == [
    "same",
    "MACs, ACE",
    "added",
  ]


def test_phases_are_joined_apart():
  a, b = made.cost(layers=1), made.cost(layers=1)
  row = a["layers"][0]
  a["layers"] = [row | {"phase": "forward"}, row | {"phase": "backward"}]
  b["layers"] = [row | {"phase": "backward"}]
  found = report.diff(a, b, ("x", "y"))
  assert [(x.phase, x.change) for x in found.lines] == [
    ("forward", "removed"),
    ("backward", "same"),
  ]


def test_totals_are_those_that_both_have(found):
  totals = {t.name: t for t in found.totals}
  assert totals["ace"].ratio == "4.00x less"
  assert totals["macs"].ratio == "same"
  assert "bops" in totals
  old = made.cost()
  names = [t.name for t in report.diff(old, old, ("x", "y")).totals]
  assert names == ["ace", "macs", "weight_bytes"]


@pytest.mark.parametrize("width", [50, 80, 120, 200])
def test_the_table_fits_its_width(found, width):
  text = report.diff_table(found, width)
  layers = text.split("\n\n")[-1].splitlines()
  assert max(map(len, layers)) <= width
  assert len({len(line) for line in layers[:2]}) == 1
  assert "8x8 -> 1x1" in text
  assert "Layers: 1 changed ~, 1 added +, 1 removed -, 6 same." in text


def test_json_has_what_differs(found):
  table = json.loads(json.dumps(found.to_json()))
  assert (table["a"]["name"], table["a"]["model"]) == ("old", "before")
  assert table["b"]["not_counted"][0]["primitive"] == "mystery"
  assert len(table["b"]["not_counted"]) == 1  # sorting hides no products
  assert table["totals"]["bops"]["macs_priced_0"] == {"a": 3, "b": 3}
  assert table["totals"]["ace"]["b_over_a"] == pytest.approx(0.25, rel=1e-3)
  assert table["counts"]["added"] == 1
  assert table["layers"][0]["a"]["bits"] == "8x8"
  assert table["layers"][1]["b"] is None
  assert len(table["layers"]) == 3


def test_csv_has_a_line_for_each_change(found):
  rows = list(csv.DictReader(io.StringIO(report.diff_csv(found))))
  assert [row["change"] for row in rows][1:] == ["removed", "added"]
  assert rows[0]["a_bits"] == "8x8"
  assert rows[1]["b_macs"] == ""


def test_markdown_is_escaped(found):
  text = report.diff_markdown(found)
  assert "| stem/conv | ~ | 8x8 -> 1x1 |" in text
  a, b = made.everything(), made.everything(evil="|<b>")
  text = report.diff_markdown(report.diff(a, b, ("a|b", "<i>")))
  assert "<b>" not in text
  assert "<i>" not in text
  assert "a\\|b" in text


def test_page_is_escaped():
  a, b = made.everything(), made.everything(evil=EVIL)
  page = report.diff_page(report.diff(a, b, (EVIL, "b")))
  parsed = _Page(page)
  assert parsed.tags.count("script") == 1
  assert "img" not in parsed.tags


def test_page_stays_below_one_megabyte():
  a, b = made.cost(layers=4000), made.cost(layers=4000)
  for i, row in enumerate(b["layers"]):
    row["name"] = f"decoder/layers/{i}/self_attention/projection"
  page = report.diff_page(report.diff(a, b, ("x", "y")))
  assert len(page.encode()) < 1_000_000
  assert "more layers differ" in page


def test_a_missing_key_is_named():
  broken = made.cost()
  del broken["totals"]["macs"]
  with pytest.raises(errors.UserError, match=r"new lacks totals\.macs"):
    report.diff(made.cost(), broken, ("old", "new"))


_FORMS = ("diff_table", "diff_markdown", "diff_page")


@pytest.mark.parametrize("form", _FORMS)
def test_what_is_not_counted_or_0_is_told(form):
  a, b = made.cost(), made.cost()
  row = {"primitive": "while", "where": "solve", "reason": "no bound"}
  b["not_counted"] = [row | {"matrix_like": True, "macs_per_trip": 4096}]
  bops = {"title": "BOPs", "unit": "bit operations", "total": 5}
  for cost, free in ((a, 0), (b, 3844736)):
    cost["conventions"] = {"bops": bops | {"macs_priced_0": free}}
  text = getattr(report, form)(report.diff(a, b, ("x", "y")))
  assert "not counted in b" in text.lower()
  assert "while" in text
  assert "no bound; 4,096 MACs each time" in text
  assert "3,844,736 MACs of B are 0 in BOPs" in text
  both = report.diff(b, b, ("x", "y"))
  assert "not counted in a and b" in getattr(report, form)(both).lower()


def _step(*gradients):
  row = made.cost(layers=1)["layers"][0] | {"name": "head", "phase": "backward"}
  rows = [row | {"gradient_of": of, "macs": macs} for of, macs in gradients]
  return made.cost() | {"layers": rows, "training": {"phases": {}}}


def test_gradients_are_joined_apart():
  a = _step(("", 5), ("head/kernel", 7))
  b = _step(("head/kernel", 7), ("", 6))
  found = report.diff(a, b, ("x", "y"))
  assert {(x.part, x.change) for x in found.lines} == {
    ("backward, dx", "MACs"),
    ("backward, dkernel", "same"),
  }
  assert "head (backward, dx)" in report.diff_table(found, 200)
  assert "head,backward,dx,MACs" in report.diff_csv(found)
  assert "backward, dx" in report.diff_page(report.diff(a, _step(), ("x", "y")))


@pytest.mark.parametrize("turned", [False, True])
def test_a_step_is_not_compared_with_an_example(turned):
  pair = [made.everything(), made.cost()]
  if turned:
    pair.reverse()
  step = "new" if turned else "old"
  with pytest.raises(errors.UserError, match=f"{step} is a whole training"):
    report.diff(*pair, ("old", "new"))


@pytest.mark.parametrize("form", _FORMS)
def test_of_how_much_data_is_told(form):
  a, b = made.cost(), made.cost(counted_for="a batch of 64")
  text = getattr(report, form)(report.diff(a, b, ("x", "y")))
  assert "A is for one example, B for a batch of 64" in text
  text = getattr(report, form)(report.diff(b, b, ("x", "y")))
  assert "Both for a batch of 64" in text


def test_activations_are_compared():
  memory = {"activations_bytes": 10, "activations_tagged_bytes": 4}
  a = made.cost(memory=memory)
  b = made.cost(memory=memory | {"activations_bytes": 20})
  totals = {t.name: t for t in report.diff(a, b, ("x", "y")).totals}
  assert totals["activations_bytes"].ratio == "2.00x more"
  assert totals["activations_tagged_bytes"].ratio == "same"


def test_kernels_and_units_are_written_once_and_plainly(found):
  assert "3x3x16x16" in report.diff_csv(found)
  assert "×" not in report.diff_csv(found)
  row = {"title": "MACs of Larq", "unit": "MACs", "total": 1}
  a = made.cost(conventions={"larq": row})
  text = report.diff_table(report.diff(a, a, ("x", "y")))
  assert "MACs of Larq, MACs" not in text


def _put(path, value):
  def change(cost):
    *above, last = path
    for key in above:
      cost = cost[key]
    cost[last] = value

  return change


@pytest.mark.parametrize(
  ("change", "said"),
  [
    (_put(["layers"], [1, 2]), r"layers\[0\] is no object"),
    (_put(["layers"], None), "layers is no list"),
    (_put(["layers"], {}), "layers is no list"),
    (_put(["totals"], 3), "totals is no object"),
    (_put(["totals", "ace"], "x"), r"totals\.ace is no number"),
    (_put(["totals", "ace"], float("nan")), r"totals\.ace is no number"),
    (_put(["totals", "macs_by_bit_pair"], {"x": 1}), "has no bits 'x'"),
    (_put(["totals", "weights_by_bits"], [1]), "is no object"),
    (_put(["layers", 0, "macs"], "x"), r"layers\[0\]\.macs is no number"),
    (_put(["layers", 0, "kernel"], [[1]]), "is no list of numbers"),
    (_put(["layers", 0, "name"], 3), r"layers\[0\]\.name is no text"),
    (_put(["conventions"], {"a": {}}), r"lacks conventions\.a\.title"),
    (_put(["conventions"], [3]), "conventions is no object"),
    (_put(["conventions"], {"a": 3}), r"conventions\.a is no object"),
    (_put(["memory"], {"total_bytes": "x"}), "total_bytes is no number"),
    (_put(["not_counted"], [{}]), r"lacks not_counted\[0\]\.primitive"),
    (_put(["training"], 3), "training is no object"),
  ],
)
def test_what_cannot_be_read_is_named(change, said):
  broken = made.cost()
  change(broken)
  with pytest.raises(errors.UserError, match=said):
    report.diff(broken, made.cost(), ("old", "new"))
