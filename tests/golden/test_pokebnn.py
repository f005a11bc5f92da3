"""PokeBNN against the vectors of the official code, every file found.

A file's prefix says what it holds; one that no check reads is a failure.
"""

import re
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jbin import models, nn, quantizers, schedules, tasks
from jbin.models import _pokebnn as poke
from jbin.nn import QuantizerStat
from jbin.quantizers import _pokebnn as ops
from tests.golden import folder

FILES = folder.files("pokebnn", "*.npz")
Vectors = Mapping[str, np.ndarray]


def close(got, want, atol=1e-5):
  """Forward values: absolute."""
  np.testing.assert_allclose(np.asarray(got), want, rtol=1e-5, atol=atol)


def close_gradient(got, want, tol=1e-4, floor=1e-12):
  """Gradients: relative to the largest entry, down to a floor."""
  got, want = np.asarray(got), np.asarray(want)
  assert got.shape == want.shape
  scale = np.abs(want).max()
  np.testing.assert_allclose(got, want, rtol=0, atol=tol * scale + floor)


def pull(function, g, *args):
  """Value and gradients, compiled once."""

  @jax.jit
  def run(g, *args):
    y, back = jax.vjp(function, *args)
    return y, back(g)

  return run(jnp.asarray(g), *map(jnp.asarray, args))


def value(quantized):
  return quantized.value


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


def _vjp_of(module, x, g):
  """Output, input gradient and parameter gradients of an NNX module."""
  graphdef, params, rest = nnx.split(module, nnx.Param, ...)

  @jax.jit
  def run(params, rest, x, g):
    def apply(params, x):
      merged = nnx.merge(graphdef, params, rest, copy=True)
      y = merged(x)
      return y, nnx.state(merged, nnx.Not(nnx.Param))

    y, back, new = jax.vjp(apply, params, x, has_aux=True)
    return y, new, *back(g)

  return run(params, rest, jnp.asarray(x), jnp.asarray(g))


def _set_bounds(quantizer, bounds) -> None:
  """Bounds of a file into a layer; a binary layer has them as a constant."""
  bounds = np.ravel(bounds)
  if isinstance(quantizer.spec, quantizers.poke_activation):
    assert np.all(bounds == quantizer.spec.bound)
    return
  quantizer.statistics["bounds"][...] = jnp.asarray(bounds)


def _evaluate(module):
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
    return _evaluate(layer)

  layer = make(True)
  x = jnp.asarray(z["x"])
  close(layer(x), z["s_no_act_quant"])
  close(make(False)(x), z["s_float"])
  for ours, theirs in names.items():
    bounds = next(
      z[k] for k in z if k.startswith("get_bounds/") and theirs in k
    )
    _set_bounds(getattr(layer, ours).input_quantizer, bounds)
  y, _, dparams, dx = _vjp_of(layer, x, z["g"])
  close(y, z["s"])
  close_gradient(dx, z["dx"])
  for ours, theirs in names.items():
    for leaf in ("kernel", "bias"):
      close_gradient(dparams[ours][leaf][...], z[f"dparams/{theirs}/{leaf}"])


# --- Blocks -----------------------------------------------------------------


def _block_paths(block: str) -> dict[str, tuple[str, ...]]:
  """The official path of each layer of a bottleneck, and ours."""
  paths = {}
  for n in (1, 2, 3):
    conv = f"conv{n}"
    paths[f"conv-{block}-{n}"] = (conv, "conv")
    paths[f"bn{block}-{n}"] = (conv, "norm1")
    paths[f"bn_split{block}-{n}"] = (conv, "norm2")
    paths[f"sefc1-{block}-{n}"] = (conv, "se", "fc1")
    paths[f"sefc2-{block}-{n}"] = (conv, "se", "fc2")
    paths[f"DPReLU_{n - 1}"] = (conv, "dprelu")
  return paths


def _at(module, path):
  for part in path:
    module = module[part] if isinstance(part, int) else getattr(module, part)
  return module


def _load(module, z: Vectors, paths: Mapping[str, tuple]) -> None:
  """Parameters, running statistics and bounds of a file into a module."""
  for key in z:
    room, _, rest = key.partition("/")
    if room not in ("params", "batch_stats", "get_bounds") or not rest:
      continue
    layer, leaf = rest.split("/")[0], rest.split("/")[-1]
    target = _at(module, paths[layer])
    if room == "get_bounds":
      if leaf == "bounds":
        _set_bounds(target.input_quantizer, z[key])
      continue
    getattr(target, leaf)[...] = jnp.asarray(z[key])


def _compare(gradients, z: Vectors, prefix: str, paths) -> None:
  keys = [key for key in z if key.startswith(f"{prefix}/")]
  assert keys
  # A shift before a batch norm has no gradient: both sides are rounding noise
  # of the largest ones.
  floor = 1e-6 * max(np.abs(z[key]).max() for key in keys)
  for key in keys:
    layer, leaf = key[len(prefix) + 1 :].split("/")
    got = gradients
    for part in (*paths[layer], leaf):
      got = got[part]
    close_gradient(got[...], z[key], floor=floor)


def _bottleneck(z: Vectors, recipe: poke.Recipe):
  block = next(
    key.split("/")[1].split("-")[1] for key in z if key.startswith("params/c")
  )
  paths = _block_paths(block)
  features = z[f"params/conv-{block}-1/kernel"].shape[-1]
  stride = z["x"].shape[1] // z["g"].shape[1]
  module = poke.Bottleneck(
    z["x"].shape[-1], features, stride, recipe=recipe, rngs=nnx.Rngs(0)
  )
  _load(module, z, paths)
  return module, paths


def _clear_bounds(module) -> None:
  """Bounds and statistics as before the first step."""
  for _, leaf in nnx.to_flat_state(nnx.state(module, QuantizerStat)):
    leaf[...] = jnp.zeros_like(leaf[...])
  for _, sub in nnx.iter_modules(module):
    if isinstance(sub, nn.Quantizer) and "bounds" in sub.statistics:
      stat = sub.statistics["bounds"]
      stat[...] = jnp.full_like(stat[...], -1.0)


def _check_stats(module, z: Vectors, prefix: str, paths) -> None:
  ours = {
    "mean_batch_minimum": "minimum",
    "mean_batch_maximum": "maximum",
  }
  checked = 0
  for key in z:
    if not key.startswith(f"{prefix}/"):
      continue
    layer, leaf = key[len(prefix) + 1 :].split("/")[0], key.split("/")[-1]
    quantizer = _at(module, paths[layer]).input_quantizer
    if isinstance(quantizer.spec, quantizers.poke_activation):
      # Statistics of a binary layer change nothing; its bound is a constant.
      if leaf == "bounds":
        assert np.all(z[key] == quantizer.spec.bound)
      continue
    name = ours.get(leaf, leaf)
    if name in quantizer.statistics:
      close(quantizer.statistics[name][...], np.ravel(z[key]))
      checked += 1
  assert checked


def bottleneck(z: Vectors):
  module, paths = _bottleneck(z, poke.Recipe())
  twin = _evaluate(module)
  y, _, dparams, dx = _vjp_of(twin, z["x"], z["g"])
  close(y, z["eval_y"])
  close_gradient(dx, z["eval_dx"])
  _compare(dparams, z, "eval_dparams", paths)

  x = jnp.asarray(z["x"])
  training, _ = _bottleneck(z, poke.Recipe())
  train_y, new, dparams, dx = _vjp_of(training, z["x"], z["g"])
  close(train_y, z["train_y"])
  close_gradient(dx, z["train_dx"])
  _compare(dparams, z, "train_dparams", paths)
  nnx.update(training, new)
  for key in z:
    if key.startswith("train_new_batch_stats/"):
      layer, leaf = key.split("/")[1:]
      close(getattr(_at(training, paths[layer]), leaf)[...], z[key])
  _check_stats(training, z, "train_new_get_bounds", paths)

  # A second step on the same input, from those statistics, that sets bounds.
  for _, sub in nnx.iter_modules(training):
    if isinstance(sub, nn.Quantizer) and "bounds" in sub.statistics:
      stat = sub.statistics["bounds"]
      stat[...] = jnp.full_like(stat[...], -1.0)
  close(training(x), z["train2_y"])
  _check_stats(training, z, "train2_new_get_bounds", paths)

  # Before the bounds are set, with float and with quantized weights.
  early, _ = _bottleneck(z, poke.Recipe(weights_from=0.5))
  _clear_bounds(early)
  early = schedules.set_progress(early, 0.0)
  close(_evaluate(early)(x), z["phase1_y"])
  early = schedules.set_progress(early, 0.5)
  close(_evaluate(early)(x), z["wq_only_y"])

  low, _ = _bottleneck(z, poke.Recipe(dtype=jnp.bfloat16))
  y = _evaluate(low)(x.astype(jnp.bfloat16))
  assert y.dtype == jnp.bfloat16
  # bfloat16 rounding flips signs: most of the block must agree, not all of it.
  error = np.abs(np.asarray(y.astype(jnp.float32)) - z["eval_y_bf16"])
  assert np.median(error) < 0.02 * np.abs(z["eval_y_bf16"]).max()


STEM = {
  "init_conv": ("conv",),
  "init_bn": ("norm1",),
  "init_conv_group": ("conv_group",),
  "init_bn_group": ("norm2",),
  "DPReLU_0": ("dprelu1",),
  "DPReLU_1": ("dprelu2",),
}


def _stem_paths(z: Vectors, prefix: str = "params/") -> dict[str, tuple]:
  """Official layer names of the stem, whichever way its norms are named."""
  layers = {
    key[len(prefix) :].split("/")[0] for key in z if key.startswith(prefix)
  }
  paths = {k: v for k, v in STEM.items() if k in layers}
  norms = sorted(
    layer
    for layer in layers
    if f"batch_stats/{layer}/mean" in z and "resblock" not in layer
  )
  return {
    **paths,
    **dict(zip(norms, (("norm1",), ("norm2",)), strict=True)),
  }


def poke_init(z: Vectors):
  def make(recipe: poke.Recipe):
    stem = poke.PokeInit(3, recipe=recipe, rngs=nnx.Rngs(0))
    if not recipe.quantized:
      kept = {k: v for k, v in z.items() if not k.startswith("get_bounds")}
      _load(stem, kept, paths)
    else:
      _load(stem, z, paths)
    return _evaluate(stem)

  paths = _stem_paths(z)
  x = jnp.asarray(z["x"])
  stem = make(poke.Recipe())
  y, _, dparams, dx = _vjp_of(stem, z["x"], z["g"])
  close(y, z["y"])
  close_gradient(dx, z["dx"])
  _compare(dparams, z, "dparams", paths)
  close(make(poke.Recipe(quantized=False))(x), z["y_float"])
  early = make(poke.Recipe())
  _clear_bounds(early)
  close(early(x), z["y_no_act_quant"])


# --- The network, its schedule and loss -------------------------------------


def tiny_net(z: Vectors):
  for name in {k[: -len("#int8")] for k in z if k.endswith("#int8")}:
    codes = z[f"{name}#int8"].astype(np.float32) + np.float32(0.123)
    full = name if name.startswith("params/") else f"params/{name}"
    path = full if full.endswith("kernel") else f"{full}/kernel"
    z = {**z, path: codes * z[f"{name}#scale"].astype(np.float32)}
  z = {k: v for k, v in z.items() if "#" not in k}
  net = models.pokebnn(
    0.125, num_classes=z["logits"].shape[-1], rngs=nnx.Rngs(0)
  )
  paths = {k: ("stem", *v) for k, v in _stem_paths(z).items()}
  paths["DenseAqt_0"] = ("head",)
  for index in range(len(net.blocks)):
    for layer, path in _block_paths(f"resblock{index}").items():
      if layer.startswith("DPReLU"):
        continue
      paths[layer] = ("blocks", index, *path)
    for n in (1, 2, 3):
      paths[f"DPReLU_{2 + 3 * index + n - 1}"] = (
        "blocks",
        index,
        f"conv{n}",
        "dprelu",
      )
  _load(net, {k: np.asarray(v, np.float32) for k, v in z.items()}, paths)
  net = _evaluate(net)

  @jax.jit
  def taps(x):
    x = net.stem(x)
    seen = {"in_resblock0": x}
    for index, block in enumerate(net.blocks):
      x = block(x)
      seen[f"out_resblock{index}"] = x
    return seen, net.head(x.mean((1, 2)))

  seen, logits = taps(jnp.asarray(z["x"]))
  for key in z:
    if key.startswith("tap/"):
      close(seen[key[len("tap/") :]], z[key], 1e-4)
  close(logits, z["logits"], 1e-4)
  close(net(jnp.asarray(z["x"])), z["logits"], 1e-4)


def schedule_loss(z: Vectors):

  steps_per_epoch = int(z["steps_per_epoch"])
  steps = 800 * steps_per_epoch
  base = 2e-5 * float(z.get("batch", 8192)) / 256
  rate = schedules.linear(base, 0.0, until=750 / 800)
  weights = schedules.switch(schedules.progress_at(50 * steps_per_epoch, steps))
  bounds_at = schedules.progress_at(7500, steps)
  for i, step in enumerate(z["steps"]):
    now = schedules.progress_at(int(step), steps)
    close(rate(now), z["lr"][i], 1e-9)
    assert bool(weights(now) > 0) == bool(z["quantize_weights"][i])
    # The bounds are set at one step: the first that reaches the threshold.
    before = schedules.progress_at(int(step) - 1, steps)
    first = (now >= bounds_at) and not (before >= bounds_at)
    assert bool(first) == bool(z["update_bounds"][i])

  def loss(student):
    return tasks.soft_cross_entropy(student, jnp.asarray(z["teacher_logits"]))

  value, gradient = jax.value_and_grad(loss)(jnp.asarray(z["student_logits"]))
  close(value, z["loss"])
  close_gradient(gradient, z["dlogits"])


CHECKS: dict[str, Callable[[Vectors], None]] = {
  "binarizer_act": binarizer_act,
  "binarizer_weight": binarizer_weight,
  "quantizers_multibit": quantizers_multibit,
  "bounds_stats": bounds_stats,
  "dprelu": dprelu,
  "reshape_add": reshape_add,
  "se": se,
  "poke_init": poke_init,
  "bottleneck": bottleneck,
  "tiny_net": tiny_net,
  "schedule_loss": schedule_loss,
}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_file(file):
  check = folder.check_for(file, CHECKS)
  with np.load(file) as archive:
    check(dict(archive))


def test_optimizer_is_adam_with_l2():
  """L2 passes through Adam: its first step is the same for any decay."""
  params = {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2)}
  tx = optax.chain(optax.add_decayed_weights(5e-5), optax.adam(1e-3))
  updates, _ = tx.update(
    jax.tree.map(jnp.zeros_like, params), tx.init(params), params
  )
  np.testing.assert_allclose(updates["kernel"], -1e-3, rtol=1e-2)
