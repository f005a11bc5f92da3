"""`jbin generate`: text from a workdir's newest checkpoint, as it is made."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jbin import errors
from jbin.cli import _flags

if TYPE_CHECKING:
  pass

_NUMBERS: Mapping[str, tuple[type, Any]] = {
  "new_tokens": (int, 200),
  "temperature": (float, 0.8),
  "top_k": (int, 0),
  "top_p": (float, 1.0),
  "seed": (int, 0),
}
_TEXTS = {
  "workdir": "the run whose newest checkpoint speaks",
  "prompt": "what the text begins with; nothing: a new text",
  "new_tokens": "tokens at most (200); an end of text ends it before",
  "temperature": "of the draws (0.8); 0: the most probable token",
  "top_k": "draw from so many of the most probable tokens (0: all)",
  "top_p": "draw from the most probable ones of this share (1: all)",
  "seed": "of the draws (0)",
}


def main(argv: Sequence[str]) -> None:
  """Prints the prompt and what follows; on stderr, tokens per second."""
  given, _, config = _flags.parse(
    "generate", argv, _TEXTS, needs=["workdir"], config=True
  )
  assert config is not None
  numbers = {name: _number(name, given[name]) for name in _NUMBERS}
  new_tokens = numbers.pop("new_tokens")
  from jbin import lm
  from jbin.train import inference

  sampling = lm.Sampling(**numbers)
  model, tokenizer = inference.language_model(config, Path(given["workdir"]))
  prompt = given["prompt"] or ""
  try:
    prompt.encode()
  except UnicodeEncodeError as error:
    raise errors.UserError(
      "--prompt is no UTF-8; set the terminal, or the text, to it"
    ) from error
  (ids,) = tokenizer.encode([prompt])
  end = tokenizer.special.get("sep")
  steps = lm.stream(
    model,
    [ids],
    new_tokens=new_tokens,
    sampling=sampling,
    stop=() if end is None else (end,),
    bos=end,
    vocabulary=tokenizer.size,
  )
  print(prompt, end="", flush=True)
  text = tokenizer.stream()
  for token in ids:  # what comes next may begin with a space that it decides
    text.step(token)
  _print(steps, text, len(ids), end)


def _print(steps: Any, text: Any, read: int, end: int | None) -> None:
  """Prints tokens as they come, then how fast they came."""
  began = time.perf_counter()
  times = []
  for (token,) in steps:
    times.append(time.perf_counter())
    if token != end:
      print(text.step(int(token)), end="", flush=True)
  print(text.rest(), flush=True)
  first = times[0] - began
  said = f"first token after {first:.2f} s (compiled, {read} tokens read)"
  if len(times) > 2:  # the second waits for a compiler too
    rate = (len(times) - 2) / (times[-1] - times[1])
    said += f"; then {rate:.1f} tokens per second"
  print(f"{len(times)} tokens; {said}", file=sys.stderr)


def _number(name: str, text: str | None) -> Any:
  """A flag's number.

  Raises:
    errors.UserError: if it is none.
  """
  kind, default = _NUMBERS[name]
  if text is None:
    return default
  try:
    return kind(text)
  except ValueError as error:
    what = "a whole number" if kind is int else "a number"
    raise errors.UserError(
      f"--{name} is {text!r}; it must be {what}"
    ) from error
