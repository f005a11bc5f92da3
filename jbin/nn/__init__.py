"""NNX layers that take quantizers; without them they are Flax's own."""

from jbin.nn._activation import DPReLU, Maxout, RPReLU
from jbin.nn._attention import DotProductAttention, raw_scores
from jbin.nn._axes import axis_names, name_axes
from jbin.nn._calibrate import calibrate
from jbin.nn._conv import Conv
from jbin.nn._conv_transpose import ConvTranspose
from jbin.nn._depthwise import depthwise_conv
from jbin.nn._drop_path import DropPath
from jbin.nn._gated_norm import GatedRMSNorm
from jbin.nn._hash_attention import HashAttention
from jbin.nn._hash_learning import HashLearning
from jbin.nn._kernel_hash import HashState, KernelHash
from jbin.nn._latents import latents
from jbin.nn._linear import Einsum, Embed, Linear
from jbin.nn._linear_general import LinearGeneral
from jbin.nn._low_rank import LowRankResidual
from jbin.nn._multi_head import MultiHeadAttention, Taps
from jbin.nn._norm import BatchNorm
from jbin.nn._output_norm import OutputNorm
from jbin.nn._output_scale import SpatialScale, XnorMap
from jbin.nn._quantizer import Quantizer, QuantizerSeen, QuantizerStat
from jbin.nn._reshape_add import reshape_add
from jbin.nn._squeeze_excite import SqueezeExcite
from jbin.nn._ssd import ssd, ssd_scan, ssd_step
from jbin.nn._stack import (
  Remat,
  check_remat,
  mark_stack,
  members,
  run,
  scan,
  stack,
  stack_axes,
)
from jbin.nn._undecayed import is_undecayed, undecayed

__all__ = [
  "BatchNorm",
  "Conv",
  "ConvTranspose",
  "DPReLU",
  "DotProductAttention",
  "DropPath",
  "Einsum",
  "Embed",
  "GatedRMSNorm",
  "HashAttention",
  "HashLearning",
  "HashState",
  "KernelHash",
  "Linear",
  "LinearGeneral",
  "LowRankResidual",
  "Maxout",
  "MultiHeadAttention",
  "OutputNorm",
  "Quantizer",
  "QuantizerSeen",
  "QuantizerStat",
  "RPReLU",
  "Remat",
  "SpatialScale",
  "SqueezeExcite",
  "Taps",
  "XnorMap",
  "axis_names",
  "calibrate",
  "check_remat",
  "depthwise_conv",
  "is_undecayed",
  "latents",
  "mark_stack",
  "members",
  "name_axes",
  "raw_scores",
  "reshape_add",
  "run",
  "scan",
  "ssd",
  "ssd_scan",
  "ssd_step",
  "stack",
  "stack_axes",
  "undecayed",
]
