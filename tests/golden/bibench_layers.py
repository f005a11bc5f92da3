"""BiBench's eight operators as layers, and their two quantizers alone.

Official arrays are channels first, kernels output channel first.
"""

import dataclasses
import re

import jax.numpy as jnp
import numpy as np
from flax import nnx

from jbin import nn, quantizers, schedules
from tests.golden import torch_layers as layers
from tests.golden.compare import Reader, Vectors, close_gradient, vjp_of

FORWARD, BACKWARD = 2e-6, 2e-5  # the vectors' README
CONVOLUTIONS = (
  "bnn",
  "xnor",
  "dorefa",
  "bireal",
  "xnorpp",
  "react",
  "recu",
  "fda",
)
NETS = ("fc1", "fc2")


def near_sums(got, want):
  """Sums: a small one of large terms is no better than its terms.

  FDA's official outputs are up to 5e-6 off the float64 sums of their own
  quantized tensors, where these are small.
  """
  largest = max(1, abs(want).max())
  layers.near(got / largest, want / largest, FORWARD)


@dataclasses.dataclass(frozen=True)
class Case:
  """One case of a file: its arrays without the prefix, and how they lie."""

  z: Vectors
  linear: bool = False

  def __contains__(self, name):
    return name in self.z

  def tensor(self, name):
    """An input, output, or gradient of one, channels last."""
    x = self.z[name]
    return x if self.linear else layers.tensor(x)

  def kernel(self, name):
    """A kernel, output channel last."""
    w = self.z[name]
    return w.T if self.linear else layers.kernel(w)

  def number(self, name):
    return float(np.ravel(self.z[name])[0])

  def learned(self, prefix):
    """{"input" | "kernel" | "output": {our name: array}} of a prefix."""
    found: dict[str, dict[str, np.ndarray]] = {}
    for part, ours, theirs, shape in (
      ("kernel", "scale", "o_scale", -1),
      ("kernel", "scale", "alpha", -1),
      ("input", "threshold", "channel_threshold", -1),
      ("output", "height", "h_scale", -1),
      ("output", "width", "w_scale", -1),
      ("output", "height", "l_scale", -1),
    ):
      if prefix + theirs in self:
        value = self.z[prefix + theirs].reshape(shape)
        found.setdefault(part, {})[ours] = value
    for name in NETS:
      if f"{prefix}act_noise.{name}.weight" in self:
        part = self.z[f"{prefix}act_noise.{name}.weight"].T
        found.setdefault("input", {})[name] = part
      if f"{prefix}weight_noise.{name}.weight" in self:
        part = self._filter_net(self.z[f"{prefix}weight_noise.{name}.weight"])
        found.setdefault("kernel", {})[name] = part
    return found

  def _filter_net(self, matrix):
    """(out, in) to (in, out), filters in the order of a channels last kernel.

    Theirs are flattened from (in, spatial...).
    """
    filters = self.z["p_weight"].shape[1:]
    size = int(np.prod(filters))
    rest = matrix.size // size
    axis = 1 if matrix.shape[1] == size else 0
    moved = np.moveaxis(matrix, axis, 0).reshape(*filters, rest)
    moved = np.moveaxis(moved, 0, -2).reshape(size, rest)
    return moved if axis == 1 else moved.T


def _pair(op: str, case: Case, when: str = ""):
  """The quantizers of an operator's input and kernel."""
  q, zero = quantizers, 0.0
  plain = q.sign(zero=zero)
  open_sign = q.sign(edge="open", zero=zero)
  scaled = q.xnor(zero=zero)
  rows = tuple(range(case.z["x"].ndim - 1)) if case.linear else (0,)
  if op == "bnn":
    return plain, plain
  if op == "xnor" and case.linear:
    return (
      q.xnor(rows, keep_scale=True, zero=zero),
      q.xnor(keep_scale=True, center=True, zero=zero),
    )
  if op == "xnor":
    return q.xnor(rows, zero=zero), scaled
  if op == "dorefa" and case.linear:
    return open_sign, q.xnor(keep_scale=True, edge="open", zero=zero)
  if op == "dorefa":
    return plain, scaled
  if op == "bireal":
    return q.bireal(zero=zero), scaled
  if op == "xnorpp":
    edge = "open" if case.linear else "closed"
    return q.sign(edge=edge, zero=zero), q.xnorpp(edge=edge, zero=zero)
  if op == "react":
    return q.rsign(shifted=not case.linear, zero=zero), scaled
  if op == "recu":
    shown = q.recu_activation(rows, standardized=when != "eval", zero=zero)
    return shown, q.recu_weight(case.number("tau"), zero=zero)
  assert op == "fda", op
  # A schedule, so that there are noise nets where the number is 0 too.
  n, alpha = (
    schedules.constant(case.number(name)) for name in ("n", "alpha_noise")
  )
  return q.fda_activation(n, alpha, zero=zero), q.fda_weight(
    n, alpha, zero=zero
  )


class _Net(nnx.Module):
  """A layer, and what XNOR-Net++ does to its output."""

  def __init__(self, layer, output):
    self.layer = layer
    self.output = output if output is not None else nnx.data(None)

  def __call__(self, x):
    y = self.layer(x)
    if self.output is None:
      return y
    # In one dimension: a column.
    wide = jnp.expand_dims(y, 2) if y.ndim == 3 else y
    return self.output(wide).reshape(y.shape)


def _net(case: Case, pair) -> _Net:
  learned = case.learned("p_")
  output = None
  if "output" in learned:
    sizes = case.tensor("y").shape[1:-1]
    output = nn.SpatialScale(*(*sizes, 1)[:2])
    for name, value in learned["output"].items():
      getattr(output, name)[...] = jnp.asarray(value)
  given = case.z["p_bias"] if "p_bias" in case else None
  layer = layers.layer(
    case.z,
    *pair,
    weight="p_weight",
    # Bi-Real and ReAct ignore theirs.
    bias=given if "grad_bias" in case else None,
    learned=(learned.get("input", {}), learned.get("kernel", {})),
    linear=case.linear,
  )
  return _Net(layer, output)


def _whole(case: Case, pair):
  """The layer: output, and the gradients of all that it has."""
  net = _net(case, pair)
  x, y = case.tensor("x"), case.tensor("y")
  got, _, dparams, dx = vjp_of(net, x, case.tensor("gy"))
  near_sums(got, y)
  close_gradient(dx, case.tensor("grad_x"), BACKWARD)
  grads = dparams["layer"]
  close_gradient(
    grads["kernel"][...], case.kernel("grad_weight"), BACKWARD, 1e-9
  )
  if "grad_bias" in case:
    close_gradient(grads["bias"][...], case.z["grad_bias"], BACKWARD)
  for part, names in case.learned("grad_").items():
    for name, want in names.items():
      mine = (
        dparams["output"][name]
        if part == "output"
        else grads[f"{part}_quantizer"]["learned"][name]
      )
      close_gradient(mine[...], want, BACKWARD, 1e-9)


def _operators(case: Case, pair):
  """Both quantizers, before any output scale."""
  inputs, kernels = pair
  learned = case.learned("p_")
  weights = dict(learned.get("kernel", {}))
  if isinstance(kernels, quantizers.recu_weight):
    kernels = dataclasses.replace(kernels, learned_scale=False)
    weights = {}
  elif "scale" in weights:
    weights["scale"] = np.ones_like(weights["scale"])
  x, w = case.tensor("x"), case.kernel("p_weight")
  # Some linear layers flatten the leading axes.
  g = case.tensor("g_qa").reshape(x.shape)
  both = (
    layers.alone(inputs, x, g, **learned.get("input", {})),
    layers.alone(kernels, w, case.kernel("g_qw"), **weights),
  )
  (y, dx, _), (yw, dw, _) = both
  layers.near(y, case.tensor("qa").reshape(x.shape), FORWARD)
  layers.near(yw, case.kernel("qw"), FORWARD)
  close_gradient(dx, case.tensor("qa_grad_x"), BACKWARD)
  close_gradient(dw, case.kernel("qw_grad_weight"), BACKWARD, 1e-9)
  for part, prefix, (*_, got) in zip(
    ("input", "kernel"), ("qa_grad_", "qw_grad_"), both, strict=True
  ):
    for name, want in case.learned(prefix).get(part, {}).items():
      close_gradient(got[name], want, BACKWARD, 1e-9)


def _scheduled(op: str, case: Case, when: str):
  """The default schedules give the file's numbers at its epoch."""
  found = re.fullmatch(r"e(\d+)of(\d+)", when)
  if not found:
    return
  epoch, epochs = int(found[1]), int(found[2])
  if op == "recu":
    tau = quantizers.recu_weight().tau(schedules.progress_at(epoch, epochs))
    np.testing.assert_allclose(tau, case.number("tau"), rtol=1e-6)
    return
  default = quantizers.fda_weight()
  n = default.n(schedules.progress_at(epoch, epochs))
  alpha = default.alpha(schedules.progress_at(epoch + 1, epochs))
  assert n == case.number("n")
  np.testing.assert_allclose(alpha, case.number("alpha_noise"), atol=1e-7)


def _noiseless(case: Case):
  """Without noise there are codes, the same values and gradients."""
  n = case.number("n")
  _operators(
    dataclasses.replace(
      case, z={k: v for k, v in case.z.items() if "noise." not in k}
    ),
    (
      quantizers.fda_activation(n, 0, zero=0.0),
      quantizers.fda_weight(n, 0.0, zero=0.0),
    ),
  )


def _check(op: str, case: Case, when: str = ""):
  pair = _pair(op, case, when)
  _operators(case, pair)
  _whole(case, pair)
  if when:
    _scheduled(op, case, when)
  if op == "fda" and case.number("alpha_noise") == 0:
    _noiseless(case)


def conv2d(op: str):
  """The check of a convolution's file."""

  def check(z: Vectors):
    shared = r"c(\d+)__(?:(\w+?)__)?"
    cases = layers.groups(z, shared)
    for (index, when), arrays in cases.items():
      if set(arrays) == {"stride_pad"}:
        continue  # one for all epochs
      arrays = {**cases[index, None], **arrays}
      read = Reader(arrays)
      _check(op, Case(read), when or "")
      read.all_read()

  return check


def conv1d(z: Vectors):
  for (op, _), arrays in layers.groups(z, r"([a-z]+)__c(\d+)__").items():
    read = Reader(arrays)
    _check(op, Case(read))
    read.all_read()


def linear(z: Vectors):
  for (op, _), arrays in layers.groups(z, r"([a-z]+)__l(\d+)__").items():
    read = Reader(arrays)
    _check(op, Case(read, linear=True))
    read.all_read()


def react_linear_corrected(z: Vectors):
  """The threshold in both passes, as the paper has it (float64)."""
  layer = layers.layer(
    z,
    quantizers.rsign(zero=0.0),
    quantizers.xnor(zero=0.0),
    learned=({"threshold": z["channel_threshold"][0]}, {}),
    linear=True,
  )
  y, _, dparams, dx = vjp_of(layer, z["x"], np.float32(z["gy"]))
  near_sums(y, z["y"])
  close_gradient(dx, z["grad_x"], BACKWARD)
  close_gradient(dparams["kernel"][...], z["grad_weight"].T, BACKWARD)
  got = dparams["input_quantizer"]["learned"]["threshold"]
  close_gradient(got[...], z["grad_channel_threshold"][0], BACKWARD)
