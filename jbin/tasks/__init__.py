"""Tasks: what is learned. A loss with metrics over a batch, one file each."""

from jbin.tasks._base import REGISTRY, Metrics, Model, Task, TeacherSource
from jbin.tasks.classification import classification
from jbin.tasks.distillation import distillation, soft_cross_entropy

__all__ = [
  "REGISTRY",
  "Metrics",
  "Model",
  "Task",
  "TeacherSource",
  "classification",
  "distillation",
  "soft_cross_entropy",
]
