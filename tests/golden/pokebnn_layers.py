"""PokeBNN's quantizers, statistics and layers against the official code."""

import re

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jbin import nn, quantizers, schedules
from jbin.models import _pokebnn as poke
from jbin.quantizers import _pokebnn as ops
from tests.golden.compare import (
  Vectors,
  close,
  close_gradient,
  pull,
  value,
  vjp_of,
)

# --- Quantizers -------------------------------------------------------------


def binarizer_act(z: Vectors):
  for i, size in enumerate(z["B"]):
    bound = jnp.full((1,), size, jnp.float32)
    y, (dx,) = pull(
      lambda x, bound=bound: value(ops.binary(x, bound)), z["g"], z["x"]
    )
    close(y, z[f"y_{i}"], 1e-6)
    there = z[f"valid_{i}"]
    close_gradient(np.asarray(dx)[there], z[f"dx_{i}"][there])
    assert np.array_equal(np.asarray(dx)[there] == 0, z[f"dx_{i}"][there] == 0)
  y, (dx,) = pull(lambda x: value(ops.binary(x, z["Bc"])), z["gc"], z["xc"])
  close(y, z["yc"], 1e-6)
  close_gradient(dx, z["dxc"])
  quantizer = quantizers.poke_activation(float(z["B"][-1]))
  last = len(z["B"]) - 1
  close(quantizer(jnp.asarray(z["x"])).value, z[f"y_{last}"], 1e-6)


def binarizer_weight(z: Vectors):
  names = [key[2:] for key in z if key.startswith("w_")]
  assert names
  for name in names:
    quantizer = quantizers.poke_weight(1)
    y, (dw,) = pull(
      lambda w, q=quantizer: value(q(w)), z[f"g_{name}"], z[f"w_{name}"]
    )
    close(y, z[f"y_{name}"], 1e-6)
    close_gradient(dw, z[f"dw_{name}"])
    assert np.array_equal(np.asarray(dw) == 0, z[f"dw_{name}"] == 0)


def quantizers_multibit(z: Vectors):
  seen = set()
  for key in z:
    found = re.fullmatch(r"(sym|pos|half|w)(\d)_y", key)
    if not found:
      continue
    kind, bits = found[1], int(found[2])
    seen.add(kind)
    if kind == "w":
      quantizer = quantizers.poke_weight(bits)
      x, g, function = "w", "gw", lambda w, q=quantizer: value(q(w))
    else:
      x, g = "x", "g"
      options = {"signed": kind != "pos", "half_shift": kind == "half"}

      def function(x, bits=bits, options=options):
        return value(ops.integer(x, z["bounds"], bits, **options))

    y, (dx,) = pull(function, z[g], z[x])
    prefix = f"{kind}{bits}"
    close(y, z[f"{prefix}_y"], 1e-6)
    gradient = f"{prefix}_dx" if f"{prefix}_dx" in z else f"{prefix}_dw"
    close_gradient(dx, z[gradient])
    assert np.array_equal(np.asarray(dx) == 0, z[gradient] == 0)
  assert seen == {"sym", "pos", "half", "w"}


def bounds_stats(z: Vectors):
  update = int(z["update_step"])
  steps = len(z["xs"])
  start = float(schedules.progress_at(update, steps))
  spec = quantizers.ema_bounds(8, start=start)
  layer = nn.Quantizer(spec, z["xs"].shape[-1])
  ours = {
    "mean_batch_minimum": "minimum",
    "mean_batch_maximum": "maximum",
  }
  for step in range(steps):
    layer = schedules.set_progress(layer, schedules.progress_at(step, steps))
    y = layer(jnp.asarray(z["xs"][step])).value
    for name in (
      "bounds",
      "mean",
      "mean_abs",
      "mean_sq",
      *ours,
    ):
      got = layer.statistics[ours.get(name, name)][...]
      close(got, z[f"step{step}/{name}"].ravel(), 1e-6)
    returned = z[f"step{step}/returned"]
    want = z["xs"][step]
    if (returned >= 0).any():
      want = value(ops.integer(jnp.asarray(want), returned, 8))
    close(y, np.asarray(want), 1e-6)


# --- Layers -----------------------------------------------------------------


def dprelu(z: Vectors):
  layer = nn.DPReLU(z["x"].shape[-1])
  names = ("bias_x", "bias_y", "neg_slope", "pos_slope")
  for name in names:
    close(getattr(layer, name)[...], z[f"init_{name}"], 0)
  graphdef, _ = nnx.split(layer)

  def run(x, params):
    state = nnx.state(layer)
    for name in names:
      state[name] = state[name].replace(params[name])
    return nnx.merge(graphdef, state)(x)

  params = {name: jnp.asarray(z[name]) for name in names}
  y, back = jax.vjp(run, jnp.asarray(z["x"]), params)
  close(y, z["y"])
  dx, dparams = back(jnp.asarray(z["g"]))
  close_gradient(dx, z["dx"])
  for name in names:
    close_gradient(dparams[name], z[f"d_{name}"])
  for name in names:
    getattr(layer, name)[...] = params[name]
  layer.dtype = jnp.bfloat16
  low = layer(jnp.asarray(z["x"]))
  assert low.dtype == jnp.bfloat16
  np.testing.assert_array_equal(low.astype(jnp.float32), z["y_bf16"])


def reshape_add(z: Vectors):
  cases = [key[: -len("_method")] for key in z if key.endswith("_method")]
  assert cases
  for name in cases:
    method = str(z[f"{name}_method"])
    y, (dr, dx) = pull(
      lambda r, x, method=method: nn.reshape_add(r, x, method),
      z[f"{name}_g"],
      z[f"{name}_r"],
      z[f"{name}_x"],
    )
    close(y, z[f"{name}_y"])
    close_gradient(dr, z[f"{name}_dr"])
    close_gradient(dx, z[f"{name}_dx"])


def _se_names(z: Vectors, prefix: str) -> dict[str, str]:
  """The file's name of each layer: fc1, fc2."""
  layers = sorted(
    {key.split("/")[1] for key in z if key.startswith(f"{prefix}/")}
  )
  return dict(zip(("fc1", "fc2"), layers, strict=True))


def set_bounds(quantizer, bounds) -> None:
  """Bounds of a file into a layer; a binary layer has them as a constant."""
  bounds = np.ravel(bounds)
  if isinstance(quantizer.spec, quantizers.poke_activation):
    assert np.all(bounds == quantizer.spec.bound)
    return
  quantizer.statistics["bounds"][...] = jnp.asarray(bounds)


def evaluate(module):
  return nnx.view(module, use_running_average=True, raise_if_not_found=False)


def se(z: Vectors):
  names = _se_names(z, "params")
  features = z["x"].shape[-1]
  out = z["s"].shape[-1]
  hidden = z[f"params/{names['fc1']}/kernel"].shape[-1]

  def make(quantized: bool):
    recipe = poke.Recipe(quantized)
    layer = nn.SqueezeExcite(
      features,
      out,
      hidden,
      input_quantizers=(
        recipe.activation(4),
        recipe.activation(4, signed=False),
      ),
      kernel_quantizer=recipe.weight(4),
      rngs=nnx.Rngs(0),
    )
    for ours, theirs in names.items():
      conv = getattr(layer, ours)
      conv.kernel[...] = jnp.asarray(z[f"params/{theirs}/kernel"])
      conv.bias[...] = jnp.asarray(z[f"params/{theirs}/bias"])
    return evaluate(layer)

  layer = make(True)
  x = jnp.asarray(z["x"])
  close(layer(x), z["s_no_act_quant"])
  close(make(False)(x), z["s_float"])
  for ours, theirs in names.items():
    bounds = next(
      z[k] for k in z if k.startswith("get_bounds/") and theirs in k
    )
    set_bounds(getattr(layer, ours).input_quantizer, bounds)
  y, _, dparams, dx = vjp_of(layer, x, z["g"])
  close(y, z["s"])
  close_gradient(dx, z["dx"])
  for ours, theirs in names.items():
    for leaf in ("kernel", "bias"):
      close_gradient(dparams[ours][leaf][...], z[f"dparams/{theirs}/{leaf}"])
