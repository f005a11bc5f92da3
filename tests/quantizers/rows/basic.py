"""BinaryNet, XNOR-Net, DoReFa, PokeBNN."""

import numpy as np

from jbin import quantizers, schedules
from tests.quantizers import formulas
from tests.quantizers.formulas import CHANNEL, EXAMPLE, TENSOR
from tests.quantizers.row import Row
from tests.quantizers.rows import classic


def rows():
  q, half = quantizers, schedules.linear(2.0, 1.0)
  bounds, bound = formulas.bounds(CHANNEL), formulas.bounds(TENSOR)
  unsigned = q.ema_bounds(4, signed=False)
  tensor = q.ema_bounds(4, per_channel=False)
  late = q.delayed(q.poke_weight(1), 0.5)
  return {
    "sign": [
      Row(q.sign(), formulas.plain(1.0)),
      Row(q.sign(half), formulas.plain(1.5), progress=0.5),
      Row(q.sign(1.0, "open", -1.0), formulas.plain(1.0, "open", -1.0)),
      Row(q.sign(None), formulas.plain(np.inf)),
      Row(
        q.sign(zero=0.0), formulas.plain(1.0, zero=0.0), coded=False, levels=3
      ),
    ],
    "xnor": [
      Row(q.xnor(), formulas.xnor(CHANNEL), CHANNEL),
      Row(
        q.xnor(EXAMPLE, True),
        formulas.xnor(EXAMPLE, True),
        EXAMPLE,
        second="held",
      ),
      Row(q.xnor(TENSOR), formulas.xnor(TENSOR)),
      Row(q.xnor((0, 1, 2)), formulas.xnor((0, 1, 2)), (0, 1, 2)),
      Row(
        q.xnor(keep_scale=True, edge="open", zero=0.0),
        formulas.xnor(CHANNEL, True, "open", 0.0),
        CHANNEL,
        coded=False,
        levels=3,
        second="held",
      ),
      *(
        Row(
          q.xnor(kept, keep, center=True),
          formulas.xnor_centered(kept, keep),
          kept,
          second="held",
        )
        for kept, keep in ((CHANNEL, True), (EXAMPLE, False))
      ),
      *classic.xnor(),
    ],
    "dorefa_weight": [
      Row(
        q.dorefa_weight(k, plain),
        formulas.dorefa_weight(k, plain),
        second="held",
      )
      for k, plain in ((1, True), (2, True), (4, True), (8, True), (1, False))
    ],
    "dorefa_activation": [
      Row(q.dorefa_activation(k), formulas.dorefa_activation(k))
      for k in (1, 2, 8)
    ],
    "poke_activation": [
      Row(q.poke_activation(), formulas.poke_binary(3.0)),
      Row(q.poke_activation(half), formulas.poke_binary(1.5), progress=0.5),
    ],
    "poke_weight": [
      Row(q.poke_weight(1), formulas.poke_binary(None), CHANNEL),
      Row(q.poke_weight(4), formulas.poke_integer(4, CHANNEL), CHANNEL),
      Row(q.poke_weight(8), formulas.poke_integer(8, CHANNEL), CHANNEL),
    ],
    "delayed": [
      Row(late, formulas.poke_binary(None), CHANNEL, 0.5, coded=False),
      Row(late, formulas.floats, progress=0.49, coded=False),
      Row(q.delayed(q.sign(), 0.0), formulas.plain(1.0)),
    ],
    "ema_bounds": [
      Row(
        q.ema_bounds(8),
        formulas.poke_integer(8, CHANNEL),
        CHANNEL,
        variables=bounds,
        coded=False,
      ),
      Row(
        unsigned,
        formulas.poke_integer(4, CHANNEL, signed=False),
        CHANNEL,
        variables=bounds,
        coded=False,
      ),
      Row(
        tensor, formulas.poke_integer(4, TENSOR), variables=bound, coded=False
      ),
      Row(
        q.ema_bounds(8), formulas.floats, variables=formulas.unset, coded=False
      ),
    ],
  }
