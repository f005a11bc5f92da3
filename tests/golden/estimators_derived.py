"""Methods without official code, against formulas in float64.

Activations and kernels are channels first; a kernel is moved before it is
quantized, and what comes back is moved back.
"""

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from jbin import estimators, nn, optimizers, quantizers, regularizers
from jbin.estimators import _dsq
from tests.golden.compare import Reader, Vectors, pull
from tests.golden.estimators_bases import abcnet, lqnet, near, weight
from tests.golden.estimators_steps import cases
from tests.golden.torch_layers import alone, kernel, tensor

TTQ = {"positive": 1.2, "negative": 0.8}
H, RATE = 1.0, 0.1


def of_sum(terms):
  """The tolerance of a sum of such terms in float32."""
  return 1e-6 * max(1.0, float(np.linalg.norm(terms)))


def _pact(z: Reader):
  for case in cases(z, r"pact_k(\d+)_a([\d.]+)_out"):
    head, height = case[0].removesuffix("out"), np.full(1, float(case[2]))
    y, dx, learned = alone(
      quantizers.pact(int(case[1])), z["x"], z["g"], alpha=np.float32(height)
    )
    near(y, z[f"{head}out"])
    # XLA takes a subnormal for zero, which has the gradient.
    zero = (abs(z["x"]) < np.finfo(np.float32).tiny) & (z["x"] != 0)
    near(np.where(zero, 0, dx), np.where(zero, 0, z[f"{head}gx"]))
    near(learned["alpha"].ravel()[0], z[f"{head}galpha"], of_sum(z["g"]))


def _ternary(z: Reader, head: str, w, g):
  delta, alpha = z[f"{head}twn_delta_alpha"]
  near(weight(quantizers.twn(), w, g)[0], z[f"{head}twn_out"])
  near(weight(quantizers.twn((-1,)), w, g)[0], z[f"{head}twn_perchannel_out"])
  found = quantizers.twn()(jnp.asarray(kernel(w)))
  near(np.ravel(found.scale), alpha)
  kept = np.asarray(found.codes) != 0
  np.testing.assert_array_equal(kept, abs(kernel(w)) > delta)
  start = {name: np.full(1, level) for name, level in TTQ.items()}
  y, dw, learned = weight(quantizers.ttq(), w, g, **start)
  near(y, z[f"{head}ttq_out"])
  near(dw, z[f"{head}ttq_gw"])
  got = [np.ravel(learned[name])[0] for name in TTQ]
  near(got, z[f"{head}ttq_gWp_gWn"], of_sum(g))
  np.testing.assert_array_equal(y != 0, abs(w) > z[f"{head}ttq_delta"])


def _binary(z: Reader, head: str, w, g):
  y, dw, _ = weight(quantizers.dorefa_weight(1), w, g)
  near(y, z[f"{head}dorefa1_out"])
  near(dw, z[f"{head}dorefa1_gw"])
  for kind in ("paper", "exact"):
    spec = quantizers.xnor(gradient=kind, edge="open", zero=0.0)
    y, dw, _ = weight(spec, w, g)
    near(y, z[f"{head}xnor_out"])
    near(dw, z[f"{head}xnor_{kind}_gw"])


def _binaryconnect(z: Reader, head: str, w, g):
  # The vectors round 1/2 to even, that is down.
  y, dw, _ = weight(quantizers.binaryconnect(H, zero=-1.0), w, g)
  near(y, z[f"{head}bc_out"])
  near(dw, g)
  p = z[f"{head}bc_hard_sigmoid_p"]
  for draw, want in ((p - 1e-6, 1.0), (p + 1e-6, -1.0)):
    got = estimators.stochastic_sign(jnp.asarray(w), np.float32(draw), H)
    inside = (draw >= 0) & (draw < 1)
    np.testing.assert_array_equal(np.asarray(got)[inside], want)
  rule = optax.chain(optax.sgd(RATE), optimizers.clip_latents(H))
  w = jnp.asarray(w)
  updates, _ = rule.update(jnp.asarray(g, jnp.float32), rule.init(w), w)
  near(optax.apply_updates(w, updates), z[f"{head}bc_clip_after_step"])


def _bnnplus(z: Reader, head: str, w):
  for case in cases(z, rf"{head}bnnp_R1_a([\d.]+)"):
    alpha = float(case[1])
    r1, _ = pull(lambda w, a=alpha: regularizers.bnnplus_r1(w, a), 1.0, w)
    r2, (dw,) = pull(lambda w, a=alpha: regularizers.bnnplus_r2(w, a), 1.0, w)
    near(r1, z[f"{head}bnnp_R1_a{case[1]}"])
    near(r2, z[f"{head}bnnp_R2_a{case[1]}"])
    near(dw, z[f"{head}bnnp_R2grad_a{case[1]}"])


def _xnor_map(z: Reader):
  """XNOR-Net's K, and the convolution that it scales."""
  for case in cases(z, r"(xk\d+)_w"):
    head, w = case[1], kernel(z[case[0]])
    x = np.float32(tensor(z[f"{head}_x"]))
    pad = int(z[f"{head}_pad"])
    *size, fan_in, out = w.shape
    layer = nn.Conv(
      fan_in,
      out,
      size,
      padding=[(pad, pad)] * len(size),
      use_bias=False,
      input_quantizer=quantizers.sign(zero=0.0),
      kernel_quantizer=quantizers.xnor(zero=0.0),
      output_scale=nn.XnorMap(),
      rngs=nnx.Rngs(0),
    )
    layer.kernel[...] = jnp.asarray(w, jnp.float32)
    y = np.asarray(layer(x))
    near(y, tensor(z[f"{head}_y"]), 5e-6)
    ones = jnp.ones(y.shape, jnp.float32)
    want = np.broadcast_to(tensor(z[f"{head}_K"]), y.shape)
    near(layer.output_scale(ones, x, layer), want)


def _dsq_case(z: Reader, head: str):
  low, high, alpha = z[f"{head}_l_u_alpha"]
  k, s = z[f"{head}_k_s"]
  ends = tuple(jnp.full((1,), end, jnp.float32) for end in (low, high, alpha))
  x, g = (np.float32(z[f"{head}_{name}"]) for name in ("x", "g"))
  values = dict(zip(("low", "high", "alpha"), ends, strict=True))
  y, dx, learned = alone(quantizers.dsq(1), x, g, **values)
  near(y, z[f"{head}_hard"])
  near(dx, z[f"{head}_gx"])
  near(np.ravel(learned["alpha"])[0], z[f"{head}_galpha"], of_sum(g))
  near(_dsq.soft_staircase(jnp.asarray(x), ends, 1), z[f"{head}_soft"])
  # The slope in the middle has both constants of the curve.
  middle = np.full(1, (low + high) / 2, np.float32)
  _, slope, _ = alone(quantizers.dsq(1), middle, np.ones_like(middle), **values)
  near(slope, (high - low) / 2 * k * s, 5e-6)


def derived_misc(vectors: Vectors):
  z = Reader(vectors)
  assert z["labels"].shape == z["x"].shape
  _pact(z)
  for case in cases(z, r"(k\d+_)w"):
    head, w, g = case[1], z[case[0]], z[f"{case[1]}g"]
    _ternary(z, head, w, g)
    _binary(z, head, w, g)
    _binaryconnect(z, head, w, g)
    _bnnplus(z, head, w)
    abcnet(z, head, w, g)
  lqnet(z)
  _xnor_map(z)
  for case in cases(z, r"(dsq\d+)_x"):
    _dsq_case(z, case[1])
  z.all_read()
