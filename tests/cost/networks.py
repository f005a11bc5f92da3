"""Published networks as bare products, to hold conventions to the figures.

A product's bits are (activation, weight), 32 for float. Nothing else of the
networks is here: no norm, no activation, no shortcut.
"""

import jax
import jax.numpy as jnp
from jax import lax

from jbin import bits, cost


def codes(x, n):
  """`x` as n-bit codes; 32 leaves it float."""
  return x if n == 32 else bits.tag(jnp.round(x), n)


class Net:
  """Collects the products of a network and counts them in one program."""

  def __init__(self):
    self.layers = []
    self.weights = {}

  def weight(self, shape):
    """The path of a new weight."""
    path = f"layer{len(self.weights)}"
    weight = jax.ShapeDtypeStruct(shape, jnp.float32)
    self.weights[path] = {"kernel": weight}
    return path

  def conv(self, size, kernel, cin, cout, stride=1, pair=(32, 32), groups=1):
    """A convolution on a square image; its padding is SAME."""
    path = self.weight((kernel, kernel, cin // groups, cout))

    def run(params, x):
      return lax.conv_general_dilated(
        codes(x, pair[0]),
        codes(params[path]["kernel"], pair[1]),
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=groups,
      )

    self.layers.append((run, [(1, size, size, cin)]))

  def dense(self, tokens, cin, cout, pair=(32, 32)):
    """A dense layer on so many tokens."""
    path = self.weight((cin, cout))

    def run(params, x):
      return codes(x, pair[0]) @ codes(params[path]["kernel"], pair[1])

    self.layers.append((run, [(1, tokens, cin)]))

  def matmul(self, shape, other, pair=(32, 32), repeats=1):
    """A product of two activations, so many times."""

    def run(_, x, y):
      return codes(x, pair[0]) @ codes(y, pair[1])

    self.layers.append((run, [(repeats, *shape), (repeats, *other)]))

  def count(self):
    """The report of all products together."""
    shapes = [
      [jax.ShapeDtypeStruct(s, jnp.float32) for s in shapes]
      for _, shapes in self.layers
    ]

    def program(params, inputs):
      return [
        run(params, *xs)
        for (run, _), xs in zip(self.layers, inputs, strict=True)
      ]

    return cost.count(program, self.weights, shapes, weights=0)


def reactnet_a():
  """MobileNet's body: a binary 3 x 3 and 1 x 1 for each separable one."""
  net = Net()
  net.conv(224, 3, 3, 32, 2)
  channels = [32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024]
  strides = [1, 2, 1, 2, 1, 2, *[1] * 5, 2, 1]
  size = 112
  for cin, cout, stride in zip(
    channels[:-1], channels[1:], strides, strict=True
  ):
    net.conv(size, 3, cin, cin, stride, (1, 1))
    size //= stride
    for _ in range(cout // cin):
      net.conv(size, 1, cin, cin, 1, (1, 1))
  net.dense(1, 1024, 1000)
  return net


def bireal_18(pair=(1, 1), classifier=True):
  """ResNet-18 with binary 3 x 3; the stem, 1 x 1 and classifier are float."""
  net = Net()
  net.conv(224, 7, 3, 64, 2)
  size, cin = 56, 64
  for cout in (64, 128, 256, 512):
    stride = cout // cin
    net.conv(size, 3, cin, cout, stride, pair)
    if stride > 1:  # pooled first, then projected
      net.conv(size // stride, 1, cin, cout)
    size //= stride
    for _ in range(3):
      net.conv(size, 3, cout, cout, 1, pair)
    cin = cout
  if classifier:
    net.dense(1, 512, 1000)
  return net


def _block(net, tokens, dim, window, attention, mlp):
  """A transformer block: attention inside windows, then the MLP."""
  groups = tokens // window
  net.dense(tokens, dim, 3 * dim, attention)
  head = 32 if groups > 1 else 64
  heads = groups * (dim // head)
  both = (attention[0], attention[0])
  net.matmul((window, head), (head, window), both, heads)
  net.matmul((window, window), (window, head), both, heads)
  net.dense(tokens, dim, dim, attention)
  net.dense(tokens, dim, 4 * dim, mlp)
  net.dense(tokens, 4 * dim, dim, mlp)


def deit(dim, attention=(32, 32), mlp=(32, 32)):
  """DeiT of 12 blocks: 196 patches of 16 x 16 and the class token."""
  net = Net()
  net.dense(196, 16 * 16 * 3, dim)
  for _ in range(12):
    _block(net, 197, dim, 197, attention, mlp)
  net.dense(1, dim, 1000)
  return net


def swin(depths, attention=(32, 32), mlp=(32, 32)):
  """Swin of width 96 with windows of 7 x 7."""
  net = Net()
  tokens, dim = 3136, 96
  net.dense(tokens, 4 * 4 * 3, dim)
  for stage, depth in enumerate(depths):
    if stage:
      tokens, dim = tokens // 4, 2 * dim
      net.dense(tokens, 2 * dim, dim)
    for _ in range(depth):
      if tokens > 49:
        _block(net, tokens, dim, 49, attention, mlp)
      else:
        _block(net, tokens, dim, tokens, attention, mlp)
  net.dense(1, dim, 1000)
  return net
