"""Text from a language model, token by token from its cache."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jbin import errors, views
from jbin.lm import _scores

_COLD = 1e-30  # temperatures below it draw what 0 does, without overflow
DONE = -1
"""What `stream` gives for a text that has ended."""


@dataclasses.dataclass(frozen=True)
class Sampling:
  """How the next token is chosen.

  Of the logits divided by `temperature`, those of the `top_k` largest are
  kept, then the fewest of the most probable whose probabilities sum up to
  `top_p`; one is drawn by its probability. Ties at a bound are all kept.

  Attributes:
    temperature: 0: the most probable token, the first of equals.
    top_k: 0: all.
    top_p: above 0, at most 1.
    seed: of the draws; each text draws for itself, whatever others there are.

  Raises:
    errors.UserError: if a number is out of range.
  """

  temperature: float = 0.0
  top_k: int = 0
  top_p: float = 1.0
  seed: int = 0

  def __post_init__(self) -> None:
    """Checks the numbers."""
    for name in ("top_k", "seed"):
      if not isinstance(getattr(self, name), int):
        value = getattr(self, name)
        raise errors.UserError(f"{name} is {value!r}; it is a whole number")
    for name, good, rule in (
      ("temperature", 0 <= self.temperature < float("inf"), "0 or more"),
      ("top_k", self.top_k >= 0, "0 (all) or more"),
      ("top_p", 0 < self.top_p <= 1, "above 0, at most 1"),
    ):
      if not good:
        raise errors.UserError(f"{name} is {getattr(self, name)}; it is {rule}")


def stream(
  model: nnx.Module,
  prompts: Sequence[Sequence[int]],
  *,
  new_tokens: int,
  sampling: Sampling = Sampling(),
  stop: Sequence[int] | int = (),
  bos: int | None = None,
  vocabulary: int | None = None,
) -> Iterator[np.ndarray]:
  """The next tokens of several texts, as they are made.

  Prompts go through the model at once, padded on the right, then one token
  after another from the cache. The device works on a token while the host
  looks at the one before. Models and lengths that were seen are not compiled
  again; lengths count in powers of two.

  Args:
    model: a language model (`models.mamba2`, ...); is run as for evaluation.
    prompts: the ids of each text.
    new_tokens: for each text, at most.
    sampling: how a token is chosen.
    stop: tokens, or one, that end a text; the one that does is given.
    bos: what an empty prompt begins with.
    vocabulary: only tokens below it are chosen, where the model has more than
      its tokenizer; None: all.

  Yields:
    (texts,) int32: the next token of each, `DONE` for those that have ended.

  Raises:
    errors.UserError: if a prompt is empty and there is no `bos`, a token is
      none of the model's, or the model has too few positions.
    FloatingPointError: if the scores of a token are not finite.
  """
  texts = _checked(prompts, bos, new_tokens)
  if not hasattr(model, "init_cache"):
    raise errors.UserError(
      f"{type(model).__name__} makes no text: it has no cache; take a language"
      " model, such as mamba2 or llama"
    )
  graphdef, state = nnx.split(views.evaluation(model))
  lengths = np.array([*map(len, texts)])
  # The last token is never read.
  needed = int(lengths.max()) + new_tokens - 1
  limit = getattr(model, "max_length", None)
  if limit is not None and needed > limit:
    raise errors.UserError(
      f"{lengths.max()} tokens of a prompt and {new_tokens} more need"
      f" {needed} positions, and the model has {limit}; ask for fewer tokens,"
      " or make it with a larger max_length"
    )
  padded = _scores.bucket(int(lengths.max()), limit)
  tokens = np.zeros((len(texts), padded), np.int32)
  for row, text in zip(tokens, texts, strict=True):
    row[: len(text)] = text
  room = max(padded, _scores.bucket(needed, limit))
  key = jax.random.key(sampling.seed)
  how = dataclasses.replace(sampling, seed=0)
  choose = functools.partial(_choose, how, vocabulary)
  scores, cache = _read(graphdef, room, state, tokens, lengths)
  _check_vocabulary(texts, scores.shape[-1])
  chosen = choose(key, 0, scores)
  ended = np.zeros(len(texts), bool)
  for i in range(1, new_tokens + 1):
    now = chosen
    if i < new_tokens:
      scores, cache = _step(graphdef, state, now[0], cache)
      chosen = choose(key, i, scores)
    found, finite = (np.asarray(part) for part in now)
    _check_finite(finite | ended, i)
    yield np.where(ended, DONE, found).astype(np.int32)
    ended |= np.isin(found, stop)
    if ended.all():
      return


def generate(
  model: nnx.Module, prompts: Sequence[Sequence[int]], **kwargs: Any
) -> list[list[int]]:
  """The new tokens of each text, as lists of ids.

  Args:
    model: a language model.
    prompts: the ids of each text.
    **kwargs: as for `stream`: `new_tokens=100`,
      `sampling=lm.Sampling(temperature=0.8)`, ...

  Raises:
    errors.UserError: as `stream`.
    FloatingPointError: as `stream`.
  """
  steps = list(stream(model, prompts, **kwargs))
  rows = np.stack(steps, 1) if steps else np.zeros((len(prompts), 0), int)
  return [[int(t) for t in row if t != DONE] for row in rows]


def _checked(
  prompts: Sequence[Sequence[int]], bos: int | None, new_tokens: int
) -> list[list[int]]:
  """The prompts, none of them empty."""
  if new_tokens < 1:
    raise errors.UserError(f"new_tokens is {new_tokens}; it must be 1 or more")
  if len(prompts) == 0:
    raise errors.UserError("there is no prompt; give one or more")
  if isinstance(prompts, str) or any(
    isinstance(prompt, str) or np.ndim(prompt) != 1 for prompt in prompts
  ):
    raise errors.UserError(
      "prompts are lists of ids, one for each text; of a text, they are"
      " tokenizer.encode([text])"
    )
  texts = [
    _scores.ids(prompt, f"prompt {i}").tolist()
    for i, prompt in enumerate(prompts)
  ]
  for i, text in enumerate(texts):
    if not text and bos is None:
      raise errors.UserError(
        f"prompt {i} is empty, and a model cannot begin with nothing; give it"
        " a first token (bos)"
      )
  return [text or [int(bos or 0)] for text in texts]


def _check_vocabulary(texts: Sequence[Sequence[int]], size: int) -> None:
  for i, text in enumerate(texts):
    if wrong := [token for token in text if not 0 <= token < size]:
      raise errors.UserError(
        f"prompt {i} has the token {wrong[0]}, and the model's vocabulary is 0"
        f" to {size - 1}; encode it with the tokenizer that the model learned"
      )


def _check_finite(finite: np.ndarray, i: int) -> None:
  if not finite.all():
    text = int(np.argmin(finite))
    raise FloatingPointError(
      f"the scores for token {i} of text {text} are not finite"
    )


# --- The compiled parts ----------
# The graph definition is static: a model of the same structure is not compiled
# again.


@functools.partial(jax.jit, static_argnums=(0, 1))
def _read(
  graphdef: Any, room: int, state: Any, tokens: jax.Array, lengths: jax.Array
) -> tuple[jax.Array, Any]:
  """The scores after each prompt (b, vocabulary), and the cache."""
  model: Any = nnx.merge(graphdef, state)
  batch, padded = tokens.shape
  mask = jnp.arange(padded)[None] < lengths[:, None]
  cache = model.init_cache(batch, room)
  scores, cache = model(tokens, token_mask=mask, cache=cache)
  last = jnp.reshape(lengths - 1, (batch, 1, 1))
  return jnp.take_along_axis(scores, last, axis=1)[:, 0], cache


@functools.partial(jax.jit, static_argnums=0, donate_argnums=3)
def _step(
  graphdef: Any, state: Any, tokens: jax.Array, cache: Any
) -> tuple[jax.Array, Any]:
  """The scores after one more token of each text, and the cache."""
  model: Any = nnx.merge(graphdef, state)
  scores, cache = model(tokens[:, None], cache=cache)
  return scores[:, 0], cache


@functools.partial(jax.jit, static_argnums=(0, 1))
def _choose(
  sampling: Sampling,
  vocabulary: int | None,
  key: jax.Array,
  i: jax.typing.ArrayLike,
  scores: jax.Array,
) -> tuple[jax.Array, jax.Array]:
  """A token of each text (b,), and whether all its scores are finite."""
  scores = scores[:, :vocabulary].astype(jnp.float32)
  finite = jnp.isfinite(scores).all(-1)
  if sampling.temperature < _COLD:
    return jnp.argmax(scores, -1).astype(jnp.int32), finite
  scores = scores - scores.max(-1, keepdims=True)
  scores = _kept(scores / sampling.temperature, sampling)
  rows = jnp.arange(scores.shape[0])
  fold = jax.vmap(lambda row: jax.random.fold_in(key, row))
  keys = jax.vmap(lambda key: jax.random.fold_in(key, i))(fold(rows))
  drawn = jax.vmap(jax.random.categorical)(keys, scores)
  return drawn.astype(jnp.int32), finite


def _kept(scores: jax.Array, sampling: Sampling) -> jax.Array:
  """-inf for what is not to be drawn."""
  k = sampling.top_k
  if 0 < k < scores.shape[-1]:
    least = jax.lax.top_k(scores, k)[0][:, -1:]
    scores = jnp.where(scores < least, -jnp.inf, scores)
  if sampling.top_p < 1:
    falling = jnp.flip(jnp.sort(scores, -1), -1)
    share = jax.nn.softmax(falling)
    before = jnp.cumsum(share, -1) - share
    inside = jnp.where(before < sampling.top_p, falling, jnp.inf)
    least = inside.min(-1, keepdims=True)
    scores = jnp.where(scores < least, -jnp.inf, scores)
  return scores
