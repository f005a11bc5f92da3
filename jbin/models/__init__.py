"""Models: one file each, read top to bottom."""

from jbin.models._base import REGISTRY, Outputs, Predictions
from jbin.models._bert import bert, bert_base
from jbin.models._llama import llama, llama_1_3b, llama_7b, llama_130m
from jbin.models._mamba2 import (
  mamba2,
  mamba2_1_3b,
  mamba2_2_7b,
  mamba2_130m,
  mamba2_780m,
)
from jbin.models._nest import nest, nest_s, nest_t
from jbin.models._opt import opt, opt_1_3b, opt_125m
from jbin.models._pokebnn import pokebnn
from jbin.models._pvt import (
  pvt_v2,
  pvt_v2_b0,
  pvt_v2_b1,
  pvt_v2_b2,
  pvt_v2_b3,
  pvt_v2_b4,
)
from jbin.models._residual import Structure
from jbin.models._resnet import resnet18, resnet20, resnet34, resnet50
from jbin.models._swin import swin, swin_s, swin_t
from jbin.models._tokens import hash_start
from jbin.models._twins import twins_svt, twins_svt_s
from jbin.models._vit import deit_b, deit_s, deit_t, vit

__all__ = [
  "REGISTRY",
  "Outputs",
  "Predictions",
  "Structure",
  "bert",
  "bert_base",
  "deit_b",
  "deit_s",
  "deit_t",
  "hash_start",
  "llama",
  "llama_1_3b",
  "llama_7b",
  "llama_130m",
  "mamba2",
  "mamba2_1_3b",
  "mamba2_2_7b",
  "mamba2_130m",
  "mamba2_780m",
  "nest",
  "nest_s",
  "nest_t",
  "opt",
  "opt_1_3b",
  "opt_125m",
  "pokebnn",
  "pvt_v2",
  "pvt_v2_b0",
  "pvt_v2_b1",
  "pvt_v2_b2",
  "pvt_v2_b3",
  "pvt_v2_b4",
  "resnet18",
  "resnet20",
  "resnet34",
  "resnet50",
  "swin",
  "swin_s",
  "swin_t",
  "twins_svt",
  "twins_svt_s",
  "vit",
]
