"""The page of a cost report with every part that a report can have."""

import pytest

from jbin import report
from tests.report import conftest as made
from tests.report.test_page import _Page

EVIL = "</script><img src=x onerror=alert(1)>\"'&{{7*7}}"


@pytest.fixture(scope="module")
def page():
  return report.cost_page(made.everything())


def test_every_part_is_there(page):
  _Page(page)
  for said in (
    "Where the effort goes",
    "Layer by layer",
    "Size at rest",
    "The training step",
    "By every convention",
    "Least time on a chip",
    "What the figures leave out",
  ):
    assert f"<h2>{said}</h2>" in page


def test_a_training_step_is_not_among_published_models(page):
  assert "Among published systems" not in page
  cost = made.everything()
  del cost["training"]
  alone = report.cost_page(cost)
  assert "Among published systems" in alone
  assert "A line stands at the ACE" in alone


def test_what_is_not_counted_is_in_bold_and_on_top(page):
  assert page.index("1 operation not counted") < page.index("<h2>Totals")
  assert "<b><code>mystery</code> in b</b>" in page
  assert "4 times" in page
  assert "12 MACs each time" in page
  assert "Listed, without products" in page
  counted = page[page.index('<h3 class="alarm">') : page.index("<h3>Element")]
  assert "sort" not in counted


def test_conventions_say_what_they_leave_out(page):
  section = page[page.index("By every convention") : page.index("Least time")]
  assert "Leaves out norms (and biases)." in section
  assert section.count("Leaves out norms.") == 2  # an aside is said once
  assert "3 MACs at 0" in section
  assert "12.5 µJ" in section
  assert "12,500,000 pJ" in section


def test_sizes_add_up(page):
  section = page[page.index("Size at rest") : page.index("The training step")]
  whole = 288 + 100 + 64 + 32 + 4096
  assert f"<td>{whole:,}</td>" in section
  for label in ("Weights of 1 bit", "Looked-up tables", "States: Cache"):
    assert label in section


def test_branches_lookups_and_transfers_are_listed(page):
  section = page[page.index("What the figures leave out") :]
  assert "branch 1 <b>counted</b>" in section
  assert "64 of 8 bits" in section
  assert "<code>psum</code> over data" in section


def test_a_step_has_phases_memory_and_transfers(page):
  section = page[page.index("The training step") : page.index("By every")]
  for said in ("Forward", "Backward", "900 B", "2×3 float32", "20 B sent"):
    assert said in section
  assert "one training step" in page


def test_every_string_is_escaped():
  page = report.cost_page(made.everything(evil=EVIL))
  parsed = _Page(page)
  assert parsed.tags.count("script") == 1
  assert "img" not in parsed.tags
  assert "49" not in page.split("<title>")[1].split("</title>")[0]
  assert page.count("&lt;/script&gt;&lt;img") > 40


def test_phases_have_a_column_only_if_there_are_several():
  cost = made.everything()
  assert ">Phase</button>" in report.cost_page(cost)
  del cost["training"]
  assert ">Phase</button>" not in report.cost_page(cost)


@pytest.mark.parametrize("depth", [1, 3, 12])
def test_page_of_1500_layers_stays_below_one_megabyte(depth):
  cost = made.cost(layers=1500)
  for i, row in enumerate(cost["layers"]):
    parts = [f"block_{i // 3**d}" for d in range(depth, 0, -1)]
    row["name"] = "/".join(["decoder", *parts, "query_projection"])
  cost["flagged"] = [row["name"] for row in cost["layers"]]
  page = report.cost_page(cost)
  assert len(page.encode()) < 1_000_000
  if depth == 1:
    assert "more layers are in cost.json" not in page


def test_an_empty_program_has_a_page():
  cost = made.cost(layers=0) | {"layers": []}
  cost["totals"] |= {"ace": 0, "macs": 0, "macs_by_bit_pair": {}}
  cost["totals"] |= {"weights_by_bits": {}, "weight_bytes": 0}
  _Page(report.cost_page(cost))


def test_the_page_says_of_how_much_data_it_is():
  assert "All counts are for one example." in report.cost_page(made.cost())
  cost = made.cost(counted_for="one training step of 64", training={})
  cost["input"] = [[28, 28, 1], []]
  page = report.cost_page(cost)
  assert "All counts are for one training step of 64." in page
  assert "input 28×28×1</span>" in page  # labels have no shape to tell


@pytest.mark.parametrize(
  ("n", "said"), [(1, "1 transfer<"), (2, "2 transfers<")]
)
def test_a_transfer_alone_is_one(n, said):
  cost = made.everything()
  cost["training"]["communication"]["by_axis"]["data"]["transfers"] = n
  assert said in report.cost_page(cost)


def test_products_are_called_products():
  assert "tiny, 4 products</span>" in report.cost_page(made.cost())
