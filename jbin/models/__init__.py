"""Models: one file each, read top to bottom."""

from jbin.models._base import REGISTRY, Outputs
from jbin.models._pokebnn import pokebnn
from jbin.models._residual import Structure
from jbin.models._resnet import resnet18, resnet20, resnet34, resnet50

__all__ = [
  "REGISTRY",
  "Outputs",
  "Structure",
  "pokebnn",
  "resnet18",
  "resnet20",
  "resnet34",
  "resnet50",
]
