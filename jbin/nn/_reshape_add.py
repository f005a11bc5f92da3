"""PokeBNN's shortcut: adds a tensor of another shape."""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx

from jbin import bits, errors


def _channels(
  r: jax.Array, channels: int, method: Literal["zeropad", "tile"]
) -> jax.Array:
  """Step 1 and 2: as many channels as asked."""
  have = r.shape[-1]
  if have > channels:
    n = have // channels
    groups = r[..., : n * channels].reshape(*r.shape[:-1], channels, n)
    groups = bits.mark(groups, "reshape_add_ch_shrink")
    return bits.mark(groups.mean(-1), "reshape_add_ch_shrink_mul")
  if have == channels:
    return r
  if method == "zeropad":
    return jnp.pad(r, [(0, 0)] * (r.ndim - 1) + [(0, channels - have)])
  times = -(-channels // have)
  return jnp.concatenate([r] * times, -1)[..., :channels]


def _pool(r: jax.Array) -> jax.Array:
  """3x3 mean, stride 2, SAME, always over 9 entries."""
  mean = nnx.avg_pool(r, (3, 3), (2, 2), "SAME", count_include_pad=True)
  return bits.mark(mean, "reshape_add_avg_pool", per_element=9)


def reshape_add(
  r: jax.Array,
  x: jax.Array,
  method: Literal["zeropad", "tile"],
  name: str = "reshape_add",
) -> jax.Array:
  """`x + R(r)`, where R gives `r` the shape of `x` (PokeBNN).

  Channels first: more than `x` has are averaged in consecutive groups of
  `n = C_r // C_x` (of the first `n C_x`); fewer are followed by zeros
  ("zeropad") or by copies of themselves ("tile", the last copy cut where the
  widths do not divide). Then, if the positions still differ, a 3x3 mean with
  stride 2, zeros counted.

  Args:
    r: (N, H, W, C_r).
    x: (N, H', W', C_x), with H' = H or ceil(H / 2), W' likewise.
    method: what widens `r`.
    name: the addition's name in the cost report.

  Raises:
    errors.UserError: if the shapes cannot be made equal.

  Reference: Zhang et al., 2022 (arXiv 2112.00133). Differs from the code in:
  ragged widths (1.4x), where the code fails, are tiled and cut.
  """
  shortcut = _channels(r, x.shape[-1], method)
  if shortcut.shape != x.shape:
    shortcut = _pool(shortcut)
  if shortcut.shape != x.shape:
    raise errors.UserError(
      f"reshape_add: {r.shape} cannot be added to {x.shape}; positions must"
      " be equal, or halved by a stride of 2"
    )
  return bits.mark(x + shortcut, name)
