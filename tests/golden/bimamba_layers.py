"""Bi-Mamba's parts: the state space, the norm, the mixer, losses, storage."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from experiments.cost_tables.papers import bimamba
from jbin import cost, models, nn, schedules, tasks
from jbin.nn import _ssd
from tests.golden import bimamba_names as names
from tests.golden.compare import Reader

INSIDE = "layers/mixer/"


def forward(got, want):
  """The README's tolerance of float32 values."""
  np.testing.assert_allclose(np.asarray(got), want, rtol=1e-4, atol=2e-5)


def gradient(got, want):
  """The README's tolerance of float32 gradients."""
  got = np.asarray(got)
  assert got.shape == want.shape
  np.testing.assert_allclose(got, want, rtol=1e-3, atol=2e-4)


def double(got, want):
  """The README's tolerance of float64 files."""
  assert np.asarray(got).dtype == np.float64
  np.testing.assert_allclose(np.asarray(got), want, rtol=1e-10, atol=1e-10)


# --- parts --------------------------------------------------------------------


def ssd_core(z: Reader):
  with jax.enable_x64(True):
    found = jax.jit(_spaces, static_argnums=3)(
      [jnp.asarray(z[key]) for key in ("X", "A", "B", "C")],
      jnp.asarray(z["init_state"]),
      jnp.asarray(z["gy"]),
      int(z["block_len"]),
    )
    *pairs, gradients = found
    for (y, last), (from_start, last_from_start) in pairs:
      double(y, z["Y"])
      double(last, z["final_state"])
      double(from_start, z["Y_init"])
      double(last_from_start, z["final_state_init"])
    for got, key in zip(gradients, ("X", "A", "B", "C", "init"), strict=True):
      double(got, z[f"d{key}"])
    decays = jax.jit(_ssd._decays)(jnp.asarray(z["segsum_in"]))
    double(decays, z["segsum_out"])


def _spaces(arrays, start, g, chunk):
  """By chunks and by tokens, from zeros and from a state; gradients."""
  ones = jnp.ones_like(arrays[1])

  def run(function, state, x, a, b, c):
    return function(x, ones, a, b, c, state=state)

  def loss(state, *arrays):
    return jnp.sum(run(by_chunks, state, *arrays)[0] * g)

  by_chunks = functools.partial(nn.ssd, chunk=chunk)
  pairs = [
    [run(function, state, *arrays) for state in (None, start)]
    for function in (by_chunks, nn.ssd_scan)
  ]
  of_state, *others = jax.grad(loss, argnums=range(5))(start, *arrays)
  return *pairs, (*others, of_state)


def gated_rmsnorm(z: Reader):
  x, gate = jnp.asarray(z["x"]), jnp.asarray(z["z"])
  size = x.shape[-1]
  groups = size // int(z["group_size"])
  variants = {
    "y_gate_first": ({}, gate),
    "y_gate_first_grouped": ({"groups": groups}, gate),
    "y_norm_first": ({"gate_first": False}, gate),
    "y_no_gate": ({}, None),
  }
  for key, (options, by) in variants.items():
    norm = nn.GatedRMSNorm(size, epsilon=float(z["eps"]), **options)
    norm.scale[...] = jnp.asarray(z["weight"])
    forward(norm(x, by), z[key])


def lr_schedule(z: Reader):
  steps, warmup, start, end = z["args"]
  rate = schedules.cosine(start, end, warmup=warmup / steps)
  for step, want in zip(z["step"], z["lr"], strict=True):
    got = rate(schedules.progress_at(int(step), int(steps)))
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-11)


def ad_loss(z: Reader):
  """`use_kd` 0, 1 and 2, as the task has them."""
  labels = jnp.asarray(z["labels"], jnp.int32)
  batch = {"tokens": labels, "targets": labels}
  batch["target_bytes"] = jnp.ones(len(labels))
  teacher = jnp.asarray(z["teacher_logits"])
  taught = functools.partial(tasks.language_model, teacher_workdir="one")
  made = (
    tasks.language_model(),
    taught(),
    taught(hard_weight=0.5, soft_weight=0.5),
  )
  for kd, task in enumerate(made):

    def loss(logits, task=task, kd=kd):
      told = (lambda tokens: teacher) if kd else None
      return task.loss(lambda tokens: logits, batch, told)[0]

    run = jax.jit(jax.value_and_grad(loss))
    value, back = run(jnp.asarray(z["student_logits"]))
    forward(value, z[f"loss_kd{kd}"])
    want = z[f"dstudent_kd{kd}"]
    np.testing.assert_allclose(back, want, rtol=1e-4, atol=1e-6)


def storage(z: Reader):
  tokens = jax.ShapeDtypeStruct((1, 256), jnp.int32)
  columns = [str(name) for name in z["columns"]]
  assert len(z["config"]) == len(z["table"])
  for row in z["table"]:
    want = dict(zip(columns, row, strict=True))
    sizes = {"features": int(want.pop("d_model"))}
    sizes["layers"] = int(want.pop("n_layer"))
    words = int(want.pop("vocab"))
    model = nnx.eval_shape(
      lambda words=words, sizes=sizes: models.mamba2(
        words, **sizes, dtype=jnp.bfloat16, rngs=nnx.Rngs(0)
      )
    )
    found = stored(model, tokens)
    assert found.keys() == want.keys()
    for key, value in found.items():
      assert value == want[key], key


def stored(model, tokens):
  """The table's columns, from reports of the model and its binary forms."""

  def report(path):
    low = bimamba.binary(model, path) if path else model
    return cost.count(bimamba.sixteen(low), tokens)

  def learned(report):
    found = report.parameters.items()
    return sum(p.size for path, p in found if "kernel_quantizer/" in path)

  def gibibytes(report, scales=0):
    # Two bytes for each scale that is not to be counted.
    left = report.memory().parameters_bytes - 2 * scales
    return left / 2**30

  whole = report(None)
  parts = {name: report(f"{INSIDE}{name}") for name in ("in_proj", "out_proj")}
  both = report(bimamba.PROJECTIONS)
  ones = {name: part.weights_by_bits[1] for name, part in parts.items()}
  only = {
    f"only_{name.split('_')[0]}_GiB": gibibytes(part, learned(part))
    for name, part in parts.items()
  }
  return {
    "params_total": whole.params["total"],
    "params_binarized": both.weights_by_bits[1],
    **ones,
    "alpha_beta": learned(both),
    "embedding": whole.parameters["words/embedding"].size,
    "fp16_GiB": gibibytes(whole),
    "bi_GiB": gibibytes(both),
    **only,
  }


# --- the mixer ----------------------------------------------------------------


class Heard(nnx.Module):
  """A layer that says what goes in and comes out."""

  def __init__(self, layer, say):
    self.layer = layer
    self.say = say

  def __call__(self, *args):
    y = self.layer(*args)
    self.say((args, y))
    return y


def block(z: Reader):
  limit = tuple(map(float, z["dt_limit"]))
  binary = "p_in_proj.wscale" in z
  model = names.make(z["cfg"], binary=binary, dt_limit=limit)
  (layer,) = nn.members(model.layers)
  mixer = layer.mixer
  names.fill(mixer, z, "p_", INSIDE)
  x, g = jnp.asarray(z["x"]), jnp.asarray(z["gy"])
  graph, params, rest = nnx.split(mixer, nnx.Param, ...)

  def made(params):
    return nnx.merge(graph, params, rest, copy=True)

  @jax.jit
  def whole(params, x, g):
    run = lambda params, x: made(params)(x)
    y, back, cache = jax.vjp(run, params, x, has_aux=True)
    return (y, cache.state, *back(g)), inside(made(params), x)

  (y, state, dparams, dx), seen = whole(params, x, g)
  forward(y, z["y"])
  forward(state, z["i_final_state"])
  gradient(dx, z["dx"])
  for name, got in names.theirs(dparams, INSIDE).items():
    gradient(got, z[f"d_{name}"])
  for name, got in seen.items():
    want = z[f"i_{name}"]
    forward(jnp.reshape(got, want.shape), want)

  @jax.jit
  def run(x, cache):
    return made(params)(x, cache)

  cache = jax.tree.map(lambda leaf: leaf[0], model.init_cache(len(x)))
  forward(decoded(run, x, cache)[0], z["y_recurrence_f64"])
  if "dec_prefill_len" in z:
    length = int(z["dec_prefill_len"])
    y, cache = run(x[:, :length], cache)
    rest_of_y, *caches = decoded(run, x[:, length:], cache)
    forward(jnp.concatenate([y, rest_of_y], 1), z["dec_y"])
    # Ours keeps no input that no later token sees.
    want = np.moveaxis(z["dec_conv_states"], -1, -2)
    last = want.shape[2] - caches[0].shape[2]
    forward(caches[0], want[:, :, last:])
    forward(caches[1], z["dec_ssm_states"])


def inside(mixer, x):
  """Every array on the way, by the files' names."""
  seen = {}
  for name in ("in_proj", "conv", "norm", "out_proj"):
    say = lambda pair, name=name: seen.update({name: pair})
    setattr(mixer, name, Heard(getattr(mixer, name), say))
  mixer(x)
  steps = seen["in_proj"][1][..., -mixer.sizes.heads :]
  return {
    "zxbcdt": seen["in_proj"][1],
    "conv_out": jax.nn.silu(seen["conv"][1]),
    "dt": mixer._steps(steps, None),
    "scan_out": seen["norm"][0][0],
    "normed": seen["norm"][1],
    "out": seen["out_proj"][1],
  }


def decoded(run, x, cache):
  """Outputs, and the caches before and after each token."""
  outputs, caches = [], [cache]
  for i in range(x.shape[1]):
    y, cache = run(x[:, i : i + 1], cache)
    outputs.append(y)
    caches.append(cache)
  inputs, states = (jnp.stack(part) for part in zip(*caches, strict=True))
  return jnp.concatenate(outputs, 1), inputs, states
