"""Methods: what a paper makes inputs and kernels low-bit with, as a pair.

`methods.NAME(hyper-parameters)` is a dict of `input_quantizer` and
`kernel_quantizer`, the arguments of a layer or of a rule:

  jbin.nn.Conv(16, 32, 3, **jbin.methods.reste(), rngs=rngs)
  jbin.Rule(**jbin.methods.reste())

None stands for float. A doc string also names what the method needs around its
layers; `configs/resnet_cifar10.py` has it. What a quantizer cites, a model
made of it does (`jbin.cite`).
"""

from jbin.methods._base import REGISTRY, Pair
from jbin.methods._fixed import (
  bireal,
  bnn,
  bnnplus,
  bop,
  dorefa,
  poke,
  xnornet,
  xnornet_k,
)
from jbin.methods._learned import (
  abcnet,
  adabin,
  bibert,
  bit,
  bivit,
  bonn,
  dsq,
  lab,
  lqnet,
  lsq,
  pact,
  react,
  xnorpp,
)
from jbin.methods._scheduled import (
  biper,
  fda,
  irnet,
  rbnn,
  recu,
  reste,
  siman,
)
from jbin.methods._weights import (
  binaryconnect,
  bitnet,
  bitnet158,
  fbi,
  integer,
  proxquant,
  ste_tern,
  ttq,
  twn,
)

__all__ = [
  "REGISTRY",
  "Pair",
  "abcnet",
  "adabin",
  "bibert",
  "binaryconnect",
  "biper",
  "bireal",
  "bit",
  "bitnet",
  "bitnet158",
  "bivit",
  "bnn",
  "bnnplus",
  "bonn",
  "bop",
  "dorefa",
  "dsq",
  "fbi",
  "fda",
  "integer",
  "irnet",
  "lab",
  "lqnet",
  "lsq",
  "pact",
  "poke",
  "proxquant",
  "rbnn",
  "react",
  "recu",
  "reste",
  "siman",
  "ste_tern",
  "ttq",
  "twn",
  "xnornet",
  "xnornet_k",
  "xnorpp",
]
