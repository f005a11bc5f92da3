"""Rules: any Flax NNX model made low-bit, after a plan that can be read."""

from jbin.convert import _language_sets  # noqa: F401 - registers its sets
from jbin.convert._convert import cite, dequantize, quantize
from jbin.convert._plan import Entry, Plan, plan
from jbin.convert._rule import Rule
from jbin.convert._sets import REGISTRY

__all__ = [
  "REGISTRY",
  "Entry",
  "Plan",
  "Rule",
  "cite",
  "dequantize",
  "plan",
  "quantize",
]
