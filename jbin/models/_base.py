"""The registry of models: factories that take `rngs` and return a module."""

from jbin import registry

REGISTRY = registry.Registry("model")
