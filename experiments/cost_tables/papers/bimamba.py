"""Bi-Mamba: storage, and multiply-accumulates of a token (arXiv 2411.11843).

Mamba-2 with 1-bit weights in the two projections of each layer, and FBI-LLM
(arXiv 2407.07093), a Llama-type decoder whose linear maps but the head are so.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

import jbin
from experiments.cost_tables import sheet
from experiments.cost_tables.models import parts
from jbin import cost, models, quantizers

LENGTH = 2048
TOKENS = jax.ShapeDtypeStruct((1, LENGTH), jnp.int32)
TOKEN = jax.ShapeDtypeStruct((1, 1), jnp.int32)
GIB = 2**30
TRAINED = 32000  # the vocabulary of the released models
PADDED = 50288  # that of Mamba-2's own
PROJECTIONS = "layers/mixer/(in_proj|out_proj)"
SIZES = {
  "780M": models.mamba2_780m,
  "1.3B": models.mamba2_1_3b,
  "2.7B": models.mamba2_2_7b,
}
FBI = {
  "130M": models.llama_130m,
  "1.3B": models.llama_1_3b,
  "7B": models.llama_7b,
}
# Row -> its size and vocabulary.
MODELS = {
  "2.7B, vocabulary 50288": ("2.7B", PADDED),
  "2.7B, vocabulary 32000": ("2.7B", TRAINED),
  "1.3B, vocabulary 32000": ("1.3B", TRAINED),
  "780M, vocabulary 32000": ("780M", TRAINED),
}

M = TypeVar("M", bound=nnx.Module)


def binary(model: M, path: str) -> M:
  """These linear maps with 1-bit weights; activations stay 16-bit."""
  rule = jbin.Rule(path, kernel_quantizer=quantizers.fbi_weight())
  return jbin.quantize(model, rule)


def sixteen(model: M) -> M:
  """All that is stored in 16 bits, learned scales and offsets too."""
  return jax.tree.map(
    lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.bfloat16), model
  )


def mamba(size: str, vocabulary: int, **options: Any) -> nnx.Module:
  """Mamba-2, in 16 bits."""
  make = functools.partial(SIZES[size], vocabulary, **options)
  return sixteen(parts.abstract(make, dtype=jnp.bfloat16))


def stored(report: cost.Report) -> float:
  """Bytes of all parameters."""
  return report.memory().parameters_bytes


def storage(size: str, vocabulary: int) -> Mapping[str, float]:
  """Bytes in 16 bits, and with some or all projections of 1 bit."""
  model = mamba(size, vocabulary)

  def of(path: str) -> float:
    return stored(cost.count(sixteen(binary(model, path)), TOKENS))

  before, low = cost.count(model, TOKENS), binary(model, PROJECTIONS)
  after = cost.count(sixteen(low), TOKENS)
  whole = before.params["total"]
  return {
    "parameters": whole,
    "binary": after.weights_by_bits[1] / whole,
    "float": stored(before),
    "in": of("layers/mixer/in_proj"),
    "out": of("layers/mixer/out_proj"),
    "both": stored(after),
    "saved": 1 - stored(after) / stored(before),
    "kept": stored(cost.count(low, TOKENS)),
  }


def _step(model: Any, token: jax.Array, cache: Any) -> tuple[jax.Array, Any]:
  return model(token, cache=cache)


def part(record: cost.Record) -> str:
  """Where a product belongs: to "binary", "head", "conv" or "space"."""
  if record.rhs_bits == 1:
    return "binary"
  if record.kind == "matmul":
    return "space"
  return "conv" if record.name.endswith("conv") else "head"


def tokens(size: str) -> Mapping[str, float]:
  """MACs of one token: by recurrence, and of the chunked form's average."""
  model: Any = binary(mamba(size, TRAINED), PROJECTIONS)
  cache = jax.eval_shape(lambda: model.init_cache(1))
  report = cost.count(_step, model, TOKEN, cache, states=2)
  sequence = cost.count(model, TOKENS)
  macs = report.total_by(lambda record: record.macs, part)
  chunked = sequence.total_by(lambda record: record.macs, part)
  assert chunked["binary"] == LENGTH * macs["binary"]
  return {
    "binary": macs["binary"],
    "head": macs["head"],
    "conv": macs["conv"],
    # The decay of the state is element-wise.
    "space": macs["space"] + report.elementwise["state_decay"],
    "chunked": chunked["space"] / LENGTH,
    "state": report.memory().state_bytes,
    "ace": report.ace,
  }


def fbi(size: str) -> Mapping[str, float]:
  """FBI-LLM's storage, and the MACs of a token in a sequence."""
  make = functools.partial(FBI[size], TRAINED, dtype=jnp.bfloat16)
  model = sixteen(parts.abstract(make))
  low = sixteen(binary(model, "layers/.*"))
  before, after = (cost.count(m, TOKENS) for m in (model, low))
  macs = after.total_by(lambda record: record.macs, part)
  ones = after.weights_by_bits[1]
  scales = after.params["total"] - before.params["total"]
  return {
    "parameters": before.params["total"],
    "binary": macs["binary"] / LENGTH,
    "head": macs["head"] / LENGTH,
    "attention": macs["space"] / LENGTH,
    "float": stored(before),
    "both": stored(after),
    "saved": 1 - stored(after) / stored(before),
    "bits": 1 + 16 * scales / ones,
  }


SHEETS = (
  sheet.Sheet(
    name="bimamba",
    columns=(
      sheet.Column("parameters", "parameters", 1, 0),
      sheet.Column("binary", "binary, %", 0.01, 1),
      sheet.Column("float", "16 bits, GiB", GIB, 4),
      sheet.Column("in", "in_proj binary, GiB", GIB, 4),
      sheet.Column("out", "out_proj binary, GiB", GIB, 4),
      sheet.Column("both", "both binary, GiB", GIB, 4),
      sheet.Column("saved", "saved, %", 0.01, 2),
      sheet.Column("kept", "with float32 alpha and beta, GiB", GIB, 4),
    ),
    rows={
      name: functools.partial(storage, *model) for name, model in MODELS.items()
    },
    whys={
      "Computed without alpha and beta, which are 655,360 bytes for in_proj and"
      " 1,310,720 for out_proj": [
        ("2.7B, vocabulary 50288", "in"),
        ("2.7B, vocabulary 50288", "out"),
      ],
    },
  ),
  sheet.Sheet(
    name="bimamba_tokens",
    columns=(
      sheet.Column("binary", "binary MACs", 1, 0),
      sheet.Column("head", "head", 1, 0),
      sheet.Column("conv", "convolutions", 1, 0),
      sheet.Column("space", "state space, recurrent", 1, 0),
      sheet.Column("chunked", "state space, chunked", 1, 0),
      sheet.Column("state", "states, bytes", 1, 0),
      sheet.Column("ace", "ACE, 1e9", 1e9, 2),
    ),
    rows={
      size: functools.partial(tokens, size) for size in ("780M", "1.3B", "2.7B")
    },
  ),
  sheet.Sheet(
    name="fbi_llm",
    columns=(
      sheet.Column("parameters", "parameters", 1, 0),
      sheet.Column("binary", "binary MACs of a token", 1, 0),
      sheet.Column("head", "head", 1, 0),
      sheet.Column("attention", "attention at 2048", 1, 0),
      sheet.Column("float", "16 bits, GiB", GIB, 4),
      sheet.Column("both", "1-bit linear maps, GiB", GIB, 4),
      sheet.Column("saved", "saved, %", 0.01, 2),
      sheet.Column("bits", "bits of a binary weight, scales included", 1, 3),
    ),
    rows={size: functools.partial(fbi, size) for size in FBI},
  ),
)
