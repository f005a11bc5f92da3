"""The arrays of a tree by name, random keys as their words.

This is the form in which they are saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax

from jbin.train import sharding


def named(tree: Any) -> dict[str, Any]:
  """The leaves by their paths."""
  names, leaves = sharding.path_names(tree), jax.tree.leaves(tree)
  if len(set(names)) != len(names):
    twice = next(name for name in names if names.count(name) > 1)
    raise ValueError(f"two arrays of a checkpoint are called {twice!r}")
  return dict(zip(names, leaves, strict=True))


def shapes(groups: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
  """As "float32[3, 4]" for each array, by group and name."""
  return {
    name: {key: f"{x.dtype}{list(x.shape)}" for key, x in arrays.items()}
    for name, arrays in groups.items()
  }


def _is_key(leaf: Any) -> bool:
  return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def to_words(leaves: Mapping[str, Any]) -> dict[str, Any]:
  """The arrays, with the words of random keys in their place."""
  return {
    key: jax.random.key_data(leaf) if _is_key(leaf) else leaf
    for key, leaf in leaves.items()
  }


def words_of(leaf: Any) -> Any:
  """The abstract array that is saved for an abstract array."""
  if not _is_key(leaf):
    return leaf
  words = jax.eval_shape(jax.random.key_data, leaf)
  return jax.ShapeDtypeStruct(words.shape, words.dtype, sharding=leaf.sharding)


def from_words(words: Any, leaf: Any) -> Any:
  """The inverse: what `leaf`, an abstract array, is of."""
  if not _is_key(leaf):
    return words
  kinds: list[Any] = []  # only an abstract call is told the kind of a key
  jax.eval_shape(lambda key: kinds.append(jax.random.key_impl(key)), leaf)
  keys = jax.random.wrap_key_data(words, impl=kinds[0])
  return jax.device_put(keys, leaf.sharding)
