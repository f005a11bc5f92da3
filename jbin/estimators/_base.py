"""What every estimator shares: the registry, and what an edge is."""

from __future__ import annotations

from typing import Literal

from jbin import registry

REGISTRY = registry.Registry("estimator")

Edge = Literal["closed", "open", "half"]
"""The gradient on a window's edge: 1, 0, or 1/2 (JAX's rule for a tie)."""
