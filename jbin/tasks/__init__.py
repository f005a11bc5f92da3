"""Tasks: what is learned. A loss with metrics over a batch, one file each."""

from jbin.tasks._base import (
  INPUTS,
  REGISTRY,
  Metrics,
  Model,
  Task,
  TeacherSource,
  inputs,
  token_losses,
)
from jbin.tasks._figures import merge, summary
from jbin.tasks._matching import (
  direction_distance,
  hidden_loss,
  scores_loss,
  similarity,
  similarity_loss,
  soft_cross_entropy,
  unmasked,
)
from jbin.tasks.classification import classification
from jbin.tasks.distillation import distillation
from jbin.tasks.language_model import language_model
from jbin.tasks.masked_lm import masked_lm

__all__ = [
  "INPUTS",
  "REGISTRY",
  "Metrics",
  "Model",
  "Task",
  "TeacherSource",
  "classification",
  "direction_distance",
  "distillation",
  "hidden_loss",
  "inputs",
  "language_model",
  "masked_lm",
  "merge",
  "scores_loss",
  "similarity",
  "similarity_loss",
  "soft_cross_entropy",
  "summary",
  "token_losses",
  "unmasked",
]
