"""Language models at work: texts, perplexities, choices."""

from jbin.lm._generate import DONE, Sampling, generate, stream
from jbin.lm._loglikelihoods import loglikelihoods
from jbin.lm._perplexity import Perplexity, perplexity

__all__ = [
  "DONE",
  "Perplexity",
  "Sampling",
  "generate",
  "loglikelihoods",
  "perplexity",
  "stream",
]
