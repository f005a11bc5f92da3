"""Pretrained weights, in and out: the checkpoints of the Hugging Face hub.

A family of models has a table of rows, our path beside their name and how the
axes of one become those of the other; all else is done once for all families.
No PyTorch is needed, and nothing is unpickled.
"""

from jbin.pretrained import (  # noqa: F401 - register
  _bert,
  _llama,
  _mamba2,
  _nest,
  _opt,
  _pvt,
  _swin,
  _vit,
)
from jbin.pretrained._load import load, restore
from jbin.pretrained._model import model
from jbin.pretrained._save import save
from jbin.pretrained._table import REGISTRY, Family, Row

__all__ = ["REGISTRY", "Family", "Row", "load", "model", "restore", "save"]
