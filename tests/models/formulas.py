"""Pre-norm transformers in plain numpy, on the parameters of ours."""

import math

import numpy as np
from flax import nnx

import jbin


def pure(module):
  """A module's parameters as a dict of numpy arrays."""
  return _arrays(nnx.to_pure_dict(nnx.state(module, nnx.Param)))


def _arrays(tree):
  if isinstance(tree, dict):
    return {key: _arrays(item) for key, item in tree.items()}
  return np.asarray(tree, np.float64)


def member(tree, i):
  """The parameters of one block of a stack."""
  if isinstance(tree, dict):
    return {key: member(item, i) for key, item in tree.items()}
  return tree[i]


def norm(p, x, eps):
  x = x - x.mean(-1, keepdims=True)
  x = x / np.sqrt((x * x).mean(-1, keepdims=True) + eps)
  return x * p["scale"] + p["bias"]


def linear(p, x):
  return x @ p["kernel"] + p["bias"]


def softmax(x):
  x = np.exp(x - x.max(-1, keepdims=True))
  return x / x.sum(-1, keepdims=True)


def attention(p, x, bias=0.0):
  """(tokens, features) to the same, head by head; `bias` of scores."""
  out = p["out"]["bias"]
  heads = p["query"]["kernel"].shape[1]
  for h in range(heads):
    q, k, v = (
      x @ p[name]["kernel"][:, h] + p[name]["bias"][h]
      for name in ("query", "key", "value")
    )
    scores = q @ k.T / math.sqrt(q.shape[-1])
    scores = scores + (bias if np.ndim(bias) < 3 else bias[h])
    out = out + softmax(scores) @ v @ p["out"]["kernel"][h]
  return out


def mlp(p, x):
  x = linear(p["fc1"], x)
  x = x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2
  return linear(p["fc2"], x)


def block(p, x, eps, attend=attention):
  """(tokens, features) to the same."""
  x = x + attend(p["attn"], norm(p["norm1"], x, eps))
  return x + mlp(p["mlp"], norm(p["norm2"], x, eps))


def patches(p, image, size):
  """(H, W, c) to (H / size, W / size, features): a matrix on each patch."""
  h, w, c = image.shape
  x = image.reshape(h // size, size, w // size, size, c).swapaxes(1, 2)
  kernel = p["kernel"].reshape(size * size * c, -1)
  return x.reshape(h // size, w // size, -1) @ kernel + p["bias"]


# --- What rules make of a model -----------------------------------------------


def bits(model, example, **options):
  """{path: bits} of all that the rule set "bivit" makes low-bit."""
  rules = jbin.convert.REGISTRY.get("bivit")(**options)
  entries = jbin.plan(model, rules, example).entries
  wide = ("32", "32x32", "32x32, 32x32", "")
  return {e.path: e.bits for e in entries if e.bits not in wide}


def expected(*blocks, mlp="32x1"):
  """The same for blocks at these paths."""
  found = {}
  for path in blocks:
    found[f"{path}/attn"] = "1x1, 1x1"
    for name in ("query", "key", "value", "out"):
      found[f"{path}/attn/{name}"] = "1x1"
    for name in ("fc1", "fc2"):
      found[f"{path}/mlp/{name}"] = mlp
  return found
