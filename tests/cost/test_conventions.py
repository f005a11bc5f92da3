"""What one product costs under each convention, and what that leaves out."""

import math

import jax
import jax.numpy as jnp
import pytest
from hypothesis import given, settings, strategies as st
from jax import lax

from jbin import bits, cost, errors

MACS = 4 * 8 * 2  # of `x @ w` with x (4, 8) and w (8, 2)


def product(left, right):
  """The report of one product: each side codes of so many bits, or a dtype."""
  kinds = left, right
  dtype = next((kind for kind in kinds if isinstance(kind, str)), "float32")

  def run(x, w):
    sides = (
      bits.tag(jnp.round(x), kind) if isinstance(kind, int) else x
      for x, kind in zip((x, w), kinds, strict=True)
    )
    return jnp.matmul(*sides)

  x, w = (jax.ShapeDtypeStruct(shape, dtype) for shape in ((4, 8), (8, 2)))
  return cost.count(run, x, w, weights=1)


NAMES = (
  "ace",
  "ace_strict",
  "cpu64_binary_64th_rest_1",
  "cpu64_maxbits_64",
  "bops",
  "ops_div64",
  "biv_ops",
  "larq_macs",
  "multiplications",
  "additions",
  "energy_45nm",
  "energy_45nm_multiplications",
  "energy_45nm_additions",
  "energy_7nm",
  "energy_7nm_ace",
)
# (activation, weight) -> the cost of one MAC in the order of NAMES.
SIXTY_FOURTH = 1 / 64
PRICES = {
  (1, 1): (
    *(1, 1, SIXTY_FOURTH, SIXTY_FOURTH, 1, SIXTY_FOURTH, SIXTY_FOURTH, 1),
    *(0, 1, 0.03, 0, 0.03, 0.007, 0.00125),
  ),
  (1, 8): (
    *(8, 8, 1, 8 / 64, 8, 8 / 64, 8 / 64, 1),
    *(0, 1, 0.03, 0, 0.03, 0.007, 0.01),
  ),
  (4, 1): (
    *(4, 4, 1, 4 / 64, 4, 4 / 64, 4 / 64, 1),
    *(0, 1, 0.03, 0, 0.03, 0.007, 0.005),
  ),
  (4, 4): (
    *(16, 16, 1, 4 / 64, 16, 16 / 64, 16 / 64, 1),
    *(1, 1, 0.23, 0.2, 0.03, 0.077, 0.02),
  ),
  (8, 8): (
    *(64, 64, 1, 8 / 64, 64, 1, 1, 1),
    *(1, 1, 0.23, 0.2, 0.03, 0.077, 0.08),
  ),
  ("int8", "int8"): (
    *(64, 64, 1, 8 / 64, 64, 1, 1, 1),
    *(1, 1, 0.23, 0.2, 0.03, 0.077, 0.08),
  ),
  (12, 4): (
    *(48, 48, 1, 12 / 64, 48, 48 / 64, 48 / 64, 1),
    *(1, 1, 3.2, 3.1, 0.1, 0, 0.06),
  ),
  ("float32", 1): (
    *(32, 32, 1, 1, 0, 1, 0.5, 1),
    *(0, 1, 0.9, 0, 0.9, 0.38, 0.04),
  ),
  (1, "bfloat16"): (
    *(16, 16, 1, 1, 0, 1, 0.5, 1),
    *(0, 1, 0.4, 0, 0.4, 0.11, 0.02),
  ),
  ("float32", 2): (
    *(64, 64, 1, 1, 0, 1, 1, 1),
    *(1, 1, 4.6, 3.7, 0.9, 1.69, 0.08),
  ),
  ("bfloat16", "bfloat16"): (
    *(256, 256, 1, 1, 0, 1, 1, 1),
    *(1, 1, 1.5, 1.1, 0.4, 0.32, 0.32),
  ),
  ("float16", "float16"): (
    *(256, 256, 1, 1, 0, 1, 1, 1),
    *(1, 1, 1.5, 1.1, 0.4, 0.5, 0.32),
  ),
  ("float8_e4m3fn", "float8_e4m3fn"): (
    *(64, 64, 1, 1, 0, 1, 1, 1),
    *(1, 1, 1.5, 1.1, 0.4, 0.32, 0.08),
  ),
  ("float32", "float32"): (
    *(1024, 1024, 1, 1, 0, 1, 1, 1),
    *(1, 1, 4.6, 3.7, 0.9, 1.69, 1.28),
  ),
}


@pytest.mark.parametrize("pair", PRICES, ids=str)
def test_the_price_of_a_mac(pair):
  report = product(*pair)
  for name, price in zip(NAMES, PRICES[pair], strict=True):
    assert report.total(name) == pytest.approx(MACS * price, rel=1e-12), name


def test_every_convention_has_its_row():
  assert list(cost.REGISTRY) == [*NAMES, "bytes_moved"]


def test_a_width_that_no_unit_has_is_priced_0_and_said():
  report = product(12, 4)
  assert report.left_out("energy_7nm")["MACs priced 0, 12 x 4 bits"] == MACS
  assert "12 x 4 bits" in report.statement("energy_7nm")


def test_float64_has_no_energy_and_that_is_said():
  with jax.enable_x64(True):
    wide = jax.ShapeDtypeStruct((4, 4), jnp.float64)
    report = cost.count(jnp.dot, wide, wide, weights=1)
  for name in cost.REGISTRY:
    if name.startswith("energy") and name != "energy_7nm_ace":
      assert report.total(name) == 0
      said = report.statement(name)
      assert "float64: the table has no unit" in said
      assert "MACs priced 0, 64 x 64 bits" in said


# --- Sums -------------------------------------------------------------------

KINDS = st.sampled_from([1, 2, 4, 8, "float"])
NETS = st.lists(st.tuples(KINDS, KINDS), min_size=1, max_size=4)


def layer(x, w, kinds):
  """One layer of a random network; the shape stays."""
  left, right = (
    v if kind == "float" else bits.tag(jnp.round(v), kind)
    for v, kind in zip((x, w), kinds, strict=True)
  )
  return jnp.tanh(left @ right)


def chain(x, stack, kinds):
  """The layers of one block after another."""
  for w, pair in zip(stack, kinds, strict=True):
    x = layer(x, w, pair)
  return x


def same(one, other):
  """Both reports have the same total under every convention."""
  for name in cost.REGISTRY:
    assert one.total(name) == pytest.approx(other.total(name), rel=1e-12), name


@settings(deadline=None, max_examples=25)
@given(kinds=NETS, depth=st.integers(1, 4))
def test_a_loop_costs_its_trips(kinds, depth):
  """Unrolled, under scan, jit and remat, and one layer at a time."""
  x = jnp.ones((2, 8))
  shape = jax.ShapeDtypeStruct((depth, len(kinds), 8, 8), jnp.float32)

  def unrolled(x, w):
    for i in range(depth):
      x = chain(x, w[i], kinds)
    return x

  def scanned(x, w):
    return lax.scan(lambda x, w: (chain(x, w, kinds), None), x, w)[0]

  whole = cost.count(unrolled, x, shape, weights=1)
  same(whole, cost.count(scanned, x, shape, weights=1))
  for wrap in (jax.jit, jax.checkpoint):
    same(whole, cost.count(wrap(scanned), x, shape, weights=1))
  single = jax.ShapeDtypeStruct((8, 8), jnp.float32)
  parts = [
    cost.count(lambda x, w, p=pair: layer(x, w, p), x, single, weights=1)
    for pair in kinds
  ]
  for name in cost.REGISTRY:
    records = sum(cost.REGISTRY.get(name)(r) for r in whole.layers)
    assert whole.total(name) == pytest.approx(records, rel=1e-12)
    alone = depth * sum(part.total(name) for part in parts)
    assert whole.total(name) == pytest.approx(alone, rel=1e-12), name


def test_integers_stay_exact():
  """Beyond 2**53, where floats have gaps."""
  n = 2**19 + 1
  x, w = (jax.ShapeDtypeStruct(s, jnp.int8) for s in ((n, n), (n, n)))
  report = cost.count(lambda x, w: x @ w, x, w, weights=1)
  for name in ("ace", "ace_strict", "bops", "larq_macs", "additions"):
    total = report.total(name)
    assert isinstance(total, int), name
    assert total == n**3 * (64 if name in ("ace", "ace_strict", "bops") else 1)


# --- What is left out -------------------------------------------------------


@pytest.fixture(scope="module")
def mixed():
  """1 x 1, 1-bit weights on floats, floats, and a product of activations."""

  def run(x, w):
    x = bits.tag(jnp.sign(x), 1) @ bits.tag(jnp.sign(w["a"]["kernel"]), 1)
    x = jnp.tanh(x) @ bits.tag(jnp.sign(w["b"]["kernel"]), 1)
    x = x @ w["c"]["kernel"]
    return x @ x.T

  w = {name: {"kernel": jnp.ones((8, 8))} for name in "abc"}
  return cost.count(run, jnp.ones((4, 8)), w, weights=1)


LEFT_OUT = {
  "ace": {},
  "bops": {
    "MACs priced 0, 32 x 1 bits": 256,
    "MACs priced 0, 32 x 32 bits": 256 + 128,
  },
  "ops_div64": {},
  "larq_macs": {"MACs priced 0, 32 x 32 bits": 128},
  "multiplications": {
    "MACs priced 0, 1 x 1 bits": 256,
    "MACs priced 0, 32 x 1 bits": 256,
  },
}


@pytest.mark.parametrize("name", LEFT_OUT)
def test_what_a_convention_leaves_out_has_amounts(mixed, name):
  assert mixed.left_out(name) == LEFT_OUT[name] | mixed.left_out()
  text = mixed.statement(name)
  member = cost.REGISTRY.get(name)
  assert isinstance(member, cost.Convention)
  for part in (member.title, name, member.unit, member.leaves_out):
    assert part in text
  for label, n in mixed.left_out(name).items():
    assert (label in text) == (n > 0)
    assert not n or f"{n:,}" in text


def test_common_omissions_are_named_where_they_occur():
  def run(x, table, w, ids):
    x = x + table[ids]
    codes = (
      bits.tag(jnp.round(w), 4).reshape(2, 4, 8)
      * jnp.arange(2.0)[:, None, None]
    )
    x = bits.tag(jnp.round(x), 8) @ codes.reshape(8, 8)
    return lax.while_loop(lambda x: x.sum() < 9, lambda x: x @ w, x)

  args = [jnp.ones(s) for s in ((4, 8), (10, 8), (8, 8))]
  ids = jnp.zeros(4, jnp.int32)
  report = cost.count(run, *args, ids, weights=[1, 2])
  found = report.left_out()
  assert found["elements looked up in parameters"] == 32
  groups = "MACs of floats that put groups of a scale together"
  assert found[groups] == 2 * 32
  assert found["MACs of one trip of each loop that is not counted"] == 256
  assert groups in report.left_out("ace")
  assert groups not in report.left_out("ace_strict")


def test_a_user_convention_is_a_function_of_a_record(mixed):
  assert mixed.total(lambda record: 2 * record.macs) == 2 * (3 * 256 + 128)
  dense = lambda record: record.macs if record.kind == "dense" else 0
  assert mixed.total(dense) == 3 * 256
  assert mixed.left_out(dense)["MACs priced 0, 32 x 32 bits"] == 128
  assert mixed.statement(dense).startswith("<lambda>: 768")
  with pytest.raises(errors.UnknownName, match="bops"):
    mixed.total("bop")


def test_a_user_convention_may_have_a_name(mixed):
  def make():
    @cost.convention("MACs by weights", "MACs", "products of activations")
    def weight_macs(record):
      """Only those.

      `cost = macs` of products by a parameter.
      """
      return record.macs if record.weights else 0

    return weight_macs

  try:
    member = make()
    assert mixed.total("weight_macs") == mixed.total(member) == 768
    assert mixed.to_json()["conventions"]["weight_macs"] == {
      "title": "MACs by weights",
      "unit": "MACs",
      "total": 768,
      "macs_priced_0": 128,
      "leaves_out": "products of activations",
    }
    assert "\n\nLeaves out products of activations." in str(member.__doc__)
    with pytest.raises(ValueError, match="twice"):
      make()
  finally:
    del cost.REGISTRY._members["weight_macs"]


def test_a_plain_function_may_be_registered_and_give_what_is_not_finite(mixed):
  def unpriced(record):
    """No price at all."""
    return math.inf if record.weights else math.nan

  try:
    cost.REGISTRY.register(unpriced)
    for text in (str(mixed), mixed.to_table(), mixed.to_markdown()):
      assert "unpriced" in text
      assert "nan" in text
    assert mixed.to_json()["conventions"]["unpriced"]["title"] == "unpriced"
  finally:
    del cost.REGISTRY._members["unpriced"]


def test_totals_split_by_a_key(mixed):
  by_kind = mixed.total_by("ops_div64", lambda record: record.kind)
  assert by_kind == {"dense": 4 + 256 + 256, "matmul": 128}
  assert sum(by_kind.values()) == mixed.total("ops_div64")


def test_operations_are_split_by_unit(mixed):
  found = mixed.operations()
  assert found.multiplications == {"float32": 384}
  assert found.additions == {"int1": 256, "float32": 640}
  assert found.total_multiplications == mixed.total("multiplications")
  assert found.total_additions == mixed.total("additions")
  parts = mixed.total("energy_45nm_multiplications")
  parts += mixed.total("energy_45nm_additions")
  assert parts == pytest.approx(mixed.total("energy_45nm"))
