"""What quantizers share, where a tensor is large or lies on many devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec as P

from jbin.quantizers import _parts
from jbin.train import sharding
from tests import programs

# 2^20 elements and more; of the last the rows are no multiple of eight.
SHAPES = [(1024, 1024), (3, 3, 512, 256), (64, 32, 1024), (1028, 1024)]
REACHES = ["channel", "example", "tensor"]


def _over(shape, reach):
  axes = tuple(range(len(shape)))
  return {"channel": axes[:-1], "example": axes[1:], "tensor": axes}[reach]


def _tensor(shape, dtype):
  """Sizes that differ from channel to channel, and a sign that does not."""
  x = np.random.default_rng(0).normal(0.1, 1, shape)
  x *= np.geomspace(1e-3, 1e3, shape[-1])
  return jnp.asarray(x, jnp.float32).astype(dtype)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("devices", [1, 8])
@pytest.mark.parametrize("reach", REACHES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_mean_magnitude_of_a_large_tensor(
  shape, reach, devices, dtype, monkeypatch
):
  """Also where it is summed by groups, as on one device."""
  monkeypatch.setattr(jax, "device_count", lambda: devices)
  over, x = _over(shape, reach), _tensor(shape, dtype)
  want = np.abs(np.asarray(x, np.float64)).mean(over, keepdims=True)
  run = lambda x: _parts.mean_magnitude(x, over)
  grouped = devices == 1 and 0 in over and shape[0] % 8 == 0
  found = [e.primitive.name for e in programs.equations(run, x)]
  assert ("reduce" in found) == grouped
  for got in (run(x), jax.jit(run)(x)):
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got, want, rtol=2e-6)


@pytest.mark.parametrize("reach", REACHES)
@pytest.mark.parametrize(
  "spec", [P(("data", "fsdp")), P(None, "fsdp"), P("data", "fsdp")]
)
def test_the_mean_magnitude_of_a_sharded_tensor(spec, reach):
  """Each device sums what it has: nothing but sums is sent."""
  x = _tensor((1024, 2048), jnp.float32)
  over = _over(x.shape, reach)
  where = NamedSharding(sharding.make_mesh(2, 4), spec)
  placed = jax.device_put(x, where)
  run = jax.jit(lambda x: _parts.mean_magnitude(x, over))
  np.testing.assert_allclose(run(placed), run(x), rtol=2e-6)
  text = run.lower(placed).compile().as_text()
  assert "all-gather" not in text
  assert "all-to-all" not in text


@pytest.mark.parametrize("size", [3, 80, 4608])
def test_equal_numbers_are_at_their_mean(size):
  """Whatever the last bits of the mean; the gradient is that of x - mean."""
  x = jnp.float32([1.0, 3.3, -0.7, 99.9, 1e-3, 17.17, 1e4 / 3])

  def apart(x, off):
    return _parts.deviation(x, (1 + off * np.finfo(np.float32).eps) * x)

  for off in (-1, 0, 1):
    np.testing.assert_array_equal(jax.jit(apart)(x, off), 0)
  assert (np.asarray(apart(x, 16)) != 0).all()

  rng = np.random.default_rng(size)
  w = jnp.asarray(rng.normal(size=(size, 4)), jnp.float32)
  g = jnp.asarray(rng.normal(size=(size, 4)), jnp.float32)
  for kernel in (w, jnp.full_like(w, 0.3)):
    _, pull = jax.vjp(lambda w: _parts.center(w, (0,)), kernel)
    want = g - g.mean(0, keepdims=True)
    np.testing.assert_allclose(pull(g)[0], want, atol=1e-5)
  plain = w - w.mean(0, keepdims=True)
  np.testing.assert_allclose(_parts.center(w, (0,)), plain, atol=1e-6)
