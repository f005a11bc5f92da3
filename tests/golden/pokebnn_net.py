"""PokeBNN's blocks, stem, network, schedule and loss."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jbin import models, nn, quantizers, schedules, tasks
from jbin.models import _pokebnn as poke
from jbin.nn import QuantizerStat
from tests.golden.compare import Vectors, close, close_gradient, vjp_of
from tests.golden.pokebnn_layers import evaluate, set_bounds


def block_paths(block: str) -> dict[str, tuple[str, ...]]:
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


def at(module, path):
  for part in path:
    module = module[part] if isinstance(part, int) else getattr(module, part)
  return module


def load(module, z: Vectors, paths: Mapping[str, tuple]) -> None:
  """Parameters, running statistics and bounds of a file into a module."""
  for key in z:
    room, _, rest = key.partition("/")
    if room not in ("params", "batch_stats", "get_bounds") or not rest:
      continue
    layer, leaf = rest.split("/")[0], rest.split("/")[-1]
    target = at(module, paths[layer])
    if room == "get_bounds":
      if leaf == "bounds":
        set_bounds(target.input_quantizer, z[key])
      continue
    getattr(target, leaf)[...] = jnp.asarray(z[key])


def compare(gradients, z: Vectors, prefix: str, paths) -> None:
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
  paths = block_paths(block)
  features = z[f"params/conv-{block}-1/kernel"].shape[-1]
  stride = z["x"].shape[1] // z["g"].shape[1]
  module = poke.Bottleneck(
    z["x"].shape[-1], features, stride, recipe=recipe, rngs=nnx.Rngs(0)
  )
  load(module, z, paths)
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
    quantizer = at(module, paths[layer]).input_quantizer
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
  twin = evaluate(module)
  y, _, dparams, dx = vjp_of(twin, z["x"], z["g"])
  close(y, z["eval_y"])
  close_gradient(dx, z["eval_dx"])
  compare(dparams, z, "eval_dparams", paths)

  x = jnp.asarray(z["x"])
  training, _ = _bottleneck(z, poke.Recipe())
  train_y, new, dparams, dx = vjp_of(training, z["x"], z["g"])
  close(train_y, z["train_y"])
  close_gradient(dx, z["train_dx"])
  compare(dparams, z, "train_dparams", paths)
  nnx.update(training, new)
  for key in z:
    if key.startswith("train_new_batch_stats/"):
      layer, leaf = key.split("/")[1:]
      close(getattr(at(training, paths[layer]), leaf)[...], z[key])
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
  close(evaluate(early)(x), z["phase1_y"])
  early = schedules.set_progress(early, 0.5)
  close(evaluate(early)(x), z["wq_only_y"])

  low, _ = _bottleneck(z, poke.Recipe(dtype=jnp.bfloat16))
  y = evaluate(low)(x.astype(jnp.bfloat16))
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


def stem_paths(z: Vectors, prefix: str = "params/") -> dict[str, tuple]:
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
      load(stem, kept, paths)
    else:
      load(stem, z, paths)
    return evaluate(stem)

  paths = stem_paths(z)
  x = jnp.asarray(z["x"])
  stem = make(poke.Recipe())
  y, _, dparams, dx = vjp_of(stem, z["x"], z["g"])
  close(y, z["y"])
  close_gradient(dx, z["dx"])
  compare(dparams, z, "dparams", paths)
  close(make(poke.Recipe(quantized=False))(x), z["y_float"])
  early = make(poke.Recipe())
  _clear_bounds(early)
  close(early(x), z["y_no_act_quant"])


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
  paths = {k: ("stem", *v) for k, v in stem_paths(z).items()}
  paths["DenseAqt_0"] = ("head",)
  for index in range(len(net.blocks)):
    for layer, path in block_paths(f"resblock{index}").items():
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
  load(net, {k: np.asarray(v, np.float32) for k, v in z.items()}, paths)
  net = evaluate(net)

  @jax.jit
  def taps(x):
    logits = net(x)
    x = net.stem(x)
    seen = {"in_resblock0": x}
    for index, block in enumerate(net.blocks):
      x = block(x)
      seen[f"out_resblock{index}"] = x
    return seen, logits

  seen, logits = taps(jnp.asarray(z["x"]))
  for key in z:
    if key.startswith("tap/"):
      close(seen[key[len("tap/") :]], z[key], 1e-4)
  close(logits, z["logits"], 1e-4)


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
