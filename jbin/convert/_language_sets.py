"""Named sets of rules of 1-bit language models."""

from __future__ import annotations

from typing import Literal

from jbin import errors, quantizers
from jbin.convert._rule import Rule
from jbin.convert._sets import REGISTRY

_LAYERS = r"(.*/)?layers/.*"
_MIXER = r"(.*/)?mixer"
_PARTS = {
  "both": "(in_proj|out_proj)",
  "in_proj": "in_proj",
  "out_proj": "out_proj",
}
Pattern = Literal["column", "row", "single"]


@REGISTRY.register
def bimamba(
  parts: Literal["both", "in_proj", "out_proj"] = "both",
  pattern: Pattern = "column",
  zero: float = 1.0,
  path: str = _MIXER,
) -> list[Rule]:
  """Bi-Mamba: the two wide projections of every Mamba-2 mixer of one bit.

  Signs with a learned scale and a learned offset, on float inputs. Tables,
  head, norms, convolution, A_log, D and dt_bias are float. Reference: arXiv
  2411.11843. Differs from the code in: sign(0), an option.

  Args:
    parts: "both", or one of the two alone.
    pattern: what has a scale and an offset of its own: "column", each input
      feature, as in the paper; "row", each output feature; "single".
    zero: the sign at 0: the code has 0.0, the paper -1.0.
    path: regular expression of the mixers.

  Raises:
    errors.UserError: if an option is unknown.
  """
  if parts not in _PARTS:
    raise errors.UnknownName("parts", parts, _PARTS)
  return [
    Rule(
      f"(?:{path})/{_PARTS[parts]}",
      type="Linear",
      kernel_quantizer=quantizers.fbi_weight(pattern, zero),
    )
  ]


@REGISTRY.register
def fbi_llm(
  pattern: Pattern = "column", zero: float = 1.0, path: str = _LAYERS
) -> list[Rule]:
  """FBI-LLM: every linear layer of one bit, with a learned scale and offset.

  Inputs are float, as are tables, head, norms and the products of attention.
  Reference: arXiv 2407.07093. Differs from the code in: sign(0), an option.

  Args:
    pattern: as of "bimamba".
    zero: the sign at 0: the code has 0.0.
    path: regular expression of the layers; the head is not among them.

  Raises:
    errors.UserError: if the pattern is unknown.
  """
  return [
    Rule(
      path,
      type="Linear",
      kernel_quantizer=quantizers.fbi_weight(pattern, zero),
    )
  ]


@REGISTRY.register
def bitnet158(path: str = _LAYERS) -> list[Rule]:
  """BitNet b1.58: ternary kernels, inputs of 8 bits for each token.

  Tables, head, norms and the products of attention are float. Reference:
  arXiv 2402.17764. Differs from the paper in: rules add no norms. The paper
  has one in front of each layer, the last of an attention and of an MLP too,
  which is the model's to have (`models.llama(sub_norms=True)`).

  Args:
    path: regular expression of the layers; the head is not among them.
  """
  return [
    Rule(
      path,
      type="Linear",
      input_quantizer=quantizers.bitnet_activation(),
      kernel_quantizer=quantizers.bitnet158_weight(),
    )
  ]


@REGISTRY.register
def bitnet(
  zero: float = -1.0, per_token: bool = True, path: str = _LAYERS
) -> list[Rule]:
  """BitNet: centred signs of kernels, inputs of 8 bits by their largest.

  Tables, head, norms and the products of attention are float. Reference:
  arXiv 2310.11453. Differs from the paper in: rules add no norms, as of
  "bitnet158".

  Args:
    zero: the sign of a weight that is the mean; PyTorch code has 0.0.
    per_token: whether each token has a scale. False, as the paper trains: the
      batch has one, so a token's result depends on the tokens after it, and
      one at a time from a cache gives other results than all at once.
    path: regular expression of the layers; the head is not among them.
  """
  return [
    Rule(
      path,
      type="Linear",
      input_quantizer=quantizers.bitnet_activation(
        full=True, per_token=per_token
      ),
      kernel_quantizer=quantizers.bitnet_weight(zero),
    )
  ]


@REGISTRY.register
def onebit(zero: float = 1.0, path: str = _LAYERS) -> list[Rule]:
  """OneBit: signs between two learned vectors, then a norm without weights.

  Inputs are float, as are tables, head, norms and the products of attention.
  Reference: arXiv 2402.11295. Differs from the paper in: kernels stay as they
  are, as `quantizers.onebit_weight` says; sign(0), an option.

  Args:
    zero: the sign at 0: PyTorch code has 0.0.
    path: regular expression of the layers; the head is not among them.
  """
  return [
    Rule(
      path,
      type="Linear",
      kernel_quantizer=quantizers.onebit_weight(zero),
      output_scale="OutputNorm",
    )
  ]
