"""RBNN: weights rotated towards their signs, once an epoch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jbin import errors, estimators, references, schedules
from jbin.quantizers import _base, _parts

ROUNDS = 3  # of the alternating solution, each time
_SHARPER = schedules.exponential(0.01, 10.0)
_EXACT = jax.lax.Precision.HIGHEST


def factors(count: int) -> tuple[int, int]:
  """`(a, b)` with `a b = count`, a the largest divisor up to its root."""
  a = next(a for a in range(math.isqrt(count), 0, -1) if count % a == 0)
  return a, count // a


def split(kernel: jax.Array) -> jax.Array:
  """(spatial..., in, out) to (out, a, b): each filter as a matrix.

  A filter's entries come input channel by input channel, as in PyTorch.
  """
  axes = (kernel.ndim - 1, *range(kernel.ndim - 2, kernel.ndim - 1))
  axes += tuple(range(kernel.ndim - 2))
  size = factors(math.prod(kernel.shape[:-1]))
  return jnp.reshape(kernel.transpose(axes), (kernel.shape[-1], *size))


def join(matrices: jax.Array, shape: Sequence[int]) -> jax.Array:
  """(out, a, b) to the kernel's shape; undoes `split`."""
  *spatial, channels, out = shape
  kernel = jnp.reshape(matrices, (out, channels, *spatial))
  return kernel.transpose((*range(2, kernel.ndim), 1, 0))


def rotate(x: jax.Array, left: jax.Array, right: jax.Array) -> jax.Array:
  """`left^T x right` of each matrix: (n, a, b), (a, a), (b, b) -> (n, a, b)."""
  return jnp.einsum("ia,nij,jb->nab", left, x, right, precision=_EXACT)


def bi_rotation(
  x: jax.Array, left: jax.Array, right: jax.Array, rounds: int = ROUNDS
) -> tuple[jax.Array, jax.Array]:
  """Orthogonal matrices that bring `left^T x right` nearer to its signs.

  Each round takes the signs B of the rotated matrices, then the best `left`
  for B and `right`, then the best `right` for B and `left`: products of the
  singular vectors of `sum B right^T x^T` and of `sum x^T left B`.

  Args:
    x: (n, a, b), float32.
    left: (a, a), orthogonal.
    right: (b, b), orthogonal.
    rounds: how often.
  """
  for _ in range(rounds):
    signs = jnp.sign(rotate(x, left, right))
    sum_left = jnp.einsum("nab,jb,nij->ai", signs, right, x, precision=_EXACT)
    u, _, vt = jnp.linalg.svd(sum_left)
    left = jnp.matmul(u, vt, precision=_EXACT).T
    sum_right = jnp.einsum("nij,ia,nab->jb", x, left, signs, precision=_EXACT)
    u, _, vt = jnp.linalg.svd(sum_right)
    right = jnp.matmul(u, vt, precision=_EXACT)
  return left, right


def orthogonal(size: int, seed: int) -> jax.Array:
  """A random orthogonal matrix, (size, size), float32."""
  normal = np.random.default_rng(seed).normal(size=(size, size))
  q, r = np.linalg.qr(normal)
  return jnp.asarray(q * np.sign(np.diag(r)), jnp.float32)


@_base.REGISTRY.register
@references.cites("rbnn")
@dataclasses.dataclass(frozen=True)
class rbnn_weight(_base.Quantizer):  # noqa: N801 - called like a function
  """Signs of standardized, rotated weights with a learned scale (RBNN).

  `v = (w - mean) / sd` over all axes but the last (unbiased sd); each filter
  of v as an (a, b) matrix X, `a b` its length, a the largest divisor up to
  the root; `r = left^T X right`; `u = v + |sin theta| (r - v)`. Forward
  `y = alpha * sign(u)`; backward `du = dy * alpha * p(u)`, p the factor of
  `estimators.rbnn_sign`, `dv = (1 - |sin theta|) du`,
  `dtheta = sign(sin theta) cos theta sum du (r - v)`,
  `dalpha = sum dy * sign(u)`, on through the standardization; r is constant.
  At `u = 0`: +alpha. A constant channel has `v = 0` and no gradient.

  Attributes:
    epochs: how often the rotations are learned anew (`bi_rotation`): at the
      first step, then each time that `progress * epochs` passes a whole
      number. Between, they are fixed.
    t: the sharpness of the gradient; a number or a schedule.
    k: its height; None for `max(1 / t, 1)`.
    theta: what each theta starts from. The code's pi / 2 makes both
      `1 - |sin theta|` and `cos theta` zero, so that neither the weights nor
      theta ever get a gradient; pi / 4, the default, is halfway between the
      weights and their rotation, and both learn.
    detached: whether r is constant for the gradient, as in the code; if not,
      `dv` has `|sin theta| left du right^T` too.
    learned_scale: whether there is an alpha; without it the scale is 1.
    zero: the sign of 0. PyTorch code has 0 there, which is no bit: products
      then take the value, not codes.
    seed: of the random rotations at the start, the same for every kernel.

  Learned: `theta` (C,); `scale` (C,), alpha, from mean|w|. Statistics: `left`
  (a, a), `right` (b, b), `epoch` ().

  Reference: Lin et al., 2020 (arXiv 2009.13055). Differs from the code in:
  theta's start, constant channels (the code divides 0 by 0), the scale
  belongs to the kernel, so a bias is not multiplied by it, and sign(0).
  """

  bits: int = dataclasses.field(default=1, init=False, repr=False)
  epochs: int = 150
  t: schedules.Hyper = _SHARPER
  k: schedules.Hyper | None = None
  theta: float = math.pi / 4
  detached: bool = True
  learned_scale: bool = True
  zero: float = 1.0
  seed: int = 0

  @property
  def scheduled(self) -> bool:
    """True: the rotations are learned once an epoch."""
    return True

  def parameters(
    self,
    channels: int,
    x: jax.Array | None = None,
    key: jax.Array | None = None,
  ) -> Mapping[str, jax.Array]:
    """Theta as given, alpha from the kernel."""
    del key
    learned = {"theta": jnp.full(channels, self.theta, jnp.float32)}
    if self.learned_scale:
      learned["scale"] = _parts.initial_magnitude(x, (-1,), (channels,))
    return learned

  def statistics(
    self, channels: int, x: jax.Array | None = None
  ) -> Mapping[str, jax.Array]:
    """Random rotations of the kernel's sizes, and the epoch before the first.

    Raises:
      errors.UserError: if there is no kernel to take the sizes from.
    """
    if x is None or x.ndim < 2:
      raise errors.UserError(
        "rbnn_weight: the sizes of its rotations are those of a kernel"
        " (..., in, out); give one (activations take rbnn_activation)"
      )
    a, b = factors(math.prod(x.shape[:-1]))
    return {
      "left": orthogonal(a, self.seed),
      "right": orthogonal(b, self.seed + 1),
      "epoch": jnp.full((), -1.0, jnp.float32),
    }

  def update(
    self,
    x: jax.Array,
    *,
    progress: jax.Array | None,
    **statistics: jax.Array,
  ) -> Mapping[str, jax.Array]:
    """The rotations learned anew, in the first step of an epoch."""
    epochs = schedules.staircase(0.0, float(self.epochs))
    epoch = schedules.value(epochs, progress)
    matrices = split(self._standardized(jax.lax.stop_gradient(x)))
    left, right = jax.lax.cond(
      epoch != statistics["epoch"],
      lambda pair: bi_rotation(matrices, *pair),
      lambda pair: pair,
      (statistics["left"], statistics["right"]),
    )
    return {"left": left, "right": right, "epoch": epoch}

  def _standardized(self, x: jax.Array) -> jax.Array:
    over = _parts.other_axes(x.ndim, (-1,))
    return _parts.standardize(x.astype(jnp.float32), over)

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Quantizes a kernel `x` (..., in, out)."""
    v = self._standardized(x)
    rotated = rotate(split(v), now["left"], now["right"])
    rotated = join(rotated, x.shape)
    if self.detached:
      rotated = jax.lax.stop_gradient(rotated)
    sine = jnp.sin(_parts.along_last(now["theta"], x.ndim))
    share = _parts.absolute(sine)
    k = None if self.k is None else now.value(self.k)
    codes = estimators.rbnn_sign(
      v + share * (rotated - v),
      now.value(self.t),
      k=k,
      zero=self.zero,
    )
    scale = None
    if self.learned_scale:
      scale = _parts.along_last(now["scale"], x.ndim)
    return _base.signs(
      codes,
      scale,
      dtype=x.dtype,
      keep_scale=True,
      zero=self.zero,
    )


@_base.REGISTRY.register
@references.cites("rbnn")
@dataclasses.dataclass(frozen=True)
class rbnn_activation(_base.Quantizer):  # noqa: N801 - called like a function
  """Signs of standardized activations with a narrowing gradient (RBNN).

  `v = (x - mean) / sd` of each example (unbiased sd). Forward `y = sign(v)`;
  backward `dv = dy * max(0, sqrt(2) t - t^2 |v|)` with t at least 1, on
  through the standardization. At `v = 0`: +1, which a constant example is
  all over, without gradient.

  Attributes:
    t: the sharpness; a number or a schedule.
    zero: the value at 0. PyTorch code has 0 there, which is no bit: products
      then take the value, not codes.

  Reference: Lin et al., 2020 (arXiv 2009.13055). Differs from the code in:
  constant examples (the code divides 0 by 0), and sign(0).
  """

  bits: int = dataclasses.field(default=1, init=False, repr=False)
  t: schedules.Hyper = _SHARPER
  zero: float = 1.0

  def quantize(self, x: jax.Array, now: _base.Now) -> _base.Quantized:
    """Signs of activations `x`, examples first."""
    t = jnp.maximum(now.value(self.t), 1.0)
    over = _parts.other_axes(x.ndim, (0,))
    v = _parts.standardize(x.astype(jnp.float32), over)
    return _base.signs(
      estimators.rbnn_sign(v, t, k=1.0, zero=self.zero),
      None,
      dtype=x.dtype,
      zero=self.zero,
    )
