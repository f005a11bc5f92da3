"""PyTorch's names and layouts of BERT's parameters, and ours."""

import dataclasses
import re

import jax.numpy as jnp
import numpy as np
from flax import nnx

from tests.golden.compare import Reader, close_gradient

# A layer's modules, as PyTorch has them -> ours.
_LAYER = {
  "attention.self.query": "attn/query",
  "attention.self.key": "attn/key",
  "attention.self.value": "attn/value",
  "attention.output.dense": "attn/out",
  "attention.output.LayerNorm": "norm1",
  "intermediate.dense": "mlp/fc1",
  "output.dense": "mlp/fc2",
  "output.LayerNorm": "norm2",
  # BiPFT's low-rank residuals.
  "attention.self.q_m": "attn/residual/query_main",
  "attention.self.q_p": "attn/residual/query_rest",
  "attention.self.k_m": "attn/residual/key_main",
  "attention.self.k_p": "attn/residual/key_rest",
  "attention.self.v_p": "attn/residual/value_rest",
}
_MODEL = {
  "bert.embeddings.word_embeddings": "words",
  "bert.embeddings.position_embeddings": "positions",
  "bert.embeddings.token_type_embeddings": "types",
  "bert.embeddings.LayerNorm": "norm",
  "bert.pooler.dense": "pooler",
  "bert.pooler.LayerNorm": "pooler_norm",
  "classifier": "head",
}
_FACTORS = {"query": "query", "key": "key", "value": "value", "attn": "weights"}
_LEARNED = "learned"


@dataclasses.dataclass(frozen=True)
class Place:
  """Where a parameter is.

  Attributes:
    path: of the variable.
    layer: which of a stack; None: it is in none.
    turned: whether it is a matrix (out, in) there.
  """

  path: tuple[str, ...]
  layer: int | None
  turned: bool

  def read(self, state) -> np.ndarray:
    """The array there, of its layer."""
    for name in self.path:
      state = state[name]
    array = np.asarray(state[...])
    return array if self.layer is None else array[self.layer]

  def ours(self, array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """A PyTorch array, as ours lies."""
    return np.reshape(array.T if self.turned else array, shape)


def place(name: str) -> Place:
  """Of a parameter's whole name ("bert.encoder.layer.0. ..."), or a layer's."""
  found = re.fullmatch(r"bert\.encoder\.layer\.(\d+)\.(.+)", name)
  if found:
    inner = _in_layer(found[2])
    return Place(("layers", *inner.path), int(found[1]), inner.turned)
  if name.startswith(("bert.", "classifier.")):
    return _leaf(name, _MODEL)
  return _in_layer(name)


def _in_layer(name: str) -> Place:
  clip = re.fullmatch(r"attention\.self\.clip_(\w+)", name)
  if clip:
    held = f"{_FACTORS[clip[1]]}_quantizer"
    path = ("attn", "attention_fn", held, _LEARNED, "alpha")
    return Place(path, None, False)
  return _leaf(name, _LAYER)


def _leaf(name: str, modules) -> Place:
  tails = {
    ".input_clip_val": ("input_quantizer", _LEARNED, "alpha"),
    ".move.bias": ("input_quantizer", _LEARNED, "shift"),
    ".weight": ("kernel",),
    ".bias": ("bias",),
  }
  tail = next(tail for tail in tails if name.endswith(tail))
  module = name.removesuffix(tail)
  leaf = tails[tail]
  if leaf == ("kernel",) and "LayerNorm" in module:
    leaf = ("scale",)
  if leaf == ("kernel",) and "embeddings" in module:
    leaf = ("embedding",)
  path = (*modules[module].split("/"), *leaf)
  return Place(path, None, leaf == ("kernel",))


def fill(model: nnx.Module, z: Reader, head: str, inside: str = ""):
  """Puts the parameters whose keys begin with `head` into a model or layer.

  `inside` stands before the names that these leave out.
  """
  state = nnx.state(model, nnx.Param)
  names = [key.removeprefix(head) for key in z if key.startswith(head)]
  assert names, head
  for name in names:
    at, variable = place(inside + name), state
    for part in at.path:
      variable = variable[part]
    old = variable[...]
    shape = old.shape if at.layer is None else old.shape[1:]
    new = jnp.asarray(at.ours(z[head + name], shape))
    variable[...] = new if at.layer is None else old.at[at.layer].set(new)
  nnx.update(model, state)


def close_gradients(gradients, z: Reader, head: str, inside: str = ""):
  """Compares with the arrays whose keys begin with `head`.

  `inside` stands before the names that these leave out.
  """
  # A gradient that a softmax cancels is rounding alone.
  names = [key.removeprefix(head) for key in z if key.startswith(head)]
  assert names, head
  for name in names:
    at, want = place(inside + name), z[head + name]
    got = at.read(gradients)
    close_gradient(got, at.ours(want, got.shape), floor=1e-6)
