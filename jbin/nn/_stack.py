"""Equal blocks as one block with stacked variables, run by a scan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, TypeVar

import jax
from flax import nnx

from jbin import errors, shards

M = TypeVar("M", bound=nnx.Module)

Remat = Literal["none", "full", "dots"]
_POLICIES: dict[str, Callable[..., Any] | None] = {
  "full": None,
  "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


def stack(make: Callable[[nnx.Rngs], M], depth: int, rngs: nnx.Rngs) -> M:
  """`depth` blocks, each from random streams of its own, as one module.

  A leading axis is added to every variable. Rules, the optimizers' masks and
  the cost counter know such a stack as one layer of many members.

  Args:
    make: makes one block from its streams.
    depth: their number, 1 or more.
    rngs: are split; the caller's own streams move on by one draw.

  Returns:
    The stack; `scan` runs it.

  Raises:
    errors.UserError: if there is to be no block.
  """
  if depth < 1:
    raise errors.UserError(
      f"a stack of {depth} blocks cannot run; give it 1 or more (the depth, or"
      " layers, of a model or of each stage)"
    )
  blocks = nnx.vmap(make, in_axes=0, out_axes=0)(rngs.split(depth))
  return mark_stack(blocks)


_STACKED = "jbin_stacked"


def mark_stack(blocks: M, axes: int = 1) -> M:
  """Says of each parameter that `axes` leading axes more are those of a stack.

  `stack` does; who stacks parameters in another way may, for what looks at
  the tensors of single layers (`optimizers.bert_adam`).

  Args:
    blocks: changed in place: the parameters' metadata.
    axes: their number; below 0 if a stack was taken apart.
  """
  for _, node in nnx.iter_graph(blocks):
    if isinstance(node, nnx.Param):
      node.set_metadata(_STACKED, stack_axes(node) + axes)
  return blocks


def stack_axes(variable: Any) -> int:
  """How many leading axes of a parameter are those of stacks.

  Args:
    variable: what `mark_stack` has seen; of anything else, an array as well,
      the answer is 0.
  """
  if not isinstance(variable, nnx.Variable):
    return 0
  return variable.get_metadata(_STACKED, 0)


def check_remat(remat: str) -> None:
  """Refuses what is no `Remat`.

  Raises:
    errors.UserError: naming those that are.
  """
  if remat not in ("none", *_POLICIES):
    raise errors.UnknownName("remat", remat, ("none", *_POLICIES))


def run(block: nnx.Module, *args: Any, remat: Remat = "none") -> Any:
  """`block(*args)`, of which the backward pass computes some again.

  For blocks that are no stack. What the block measures or draws is kept, and
  drawn once: the second computation has the same keys.

  Args:
    block: a module.
    *args: arrays, or pytrees of them.
    remat: as for `scan`.

  Raises:
    errors.UserError: if `remat` is unknown.
  """
  check_remat(remat)
  step = _call
  if remat != "none":
    step = nnx.remat(_call, policy=_POLICIES[remat])
  return step(block, *args)


def _call(block: Any, *args: Any) -> Any:
  return block(*args)


def scan(
  blocks: nnx.Module,
  x: Any,
  *rest: Any,
  each: Any = None,
  call: Callable[..., Any] | None = None,
  remat: Remat = "none",
) -> tuple[Any, Any]:
  """`x` through all blocks of a stack; compiled once, whatever the depth.

  What blocks measure or draw is kept in the stack. On a mesh of devices what
  goes from block to block is split as the batch is (`shards.along_batch`).

  Args:
    blocks: what `stack` made.
    x: what the first block takes and each gives to the next; any pytree.
    *rest: further arguments, the same for all blocks.
    each: a pytree of arrays with a leading axis, one entry for each block,
      which gets it as the last argument; None: there is none.
    call: (block, x, *rest) -> (x, y); None: the block itself, without a y.
    remat: what the backward pass computes again: "none"; "full", all but the
      blocks' inputs; "dots", all but those and the products with parameters.

  Returns:
    (x after the last block, the y of all blocks, stacked).

  Raises:
    errors.UserError: if `remat` is unknown.
  """
  check_remat(remat)

  def step(block: Any, x: Any, item: Any, *rest: Any) -> tuple[Any, Any]:
    last = () if item is None else (item,)
    x, y = shards.along_batch(x), None
    if call is not None:
      x, y = call(block, x, *rest, *last)
    else:
      x = block(x, *rest, *last)
    return shards.along_batch(x), y

  if remat != "none":
    # Scans are optimization barriers already: nothing is computed once.
    step = nnx.remat(step, prevent_cse=False, policy=_POLICIES[remat])
  loop = nnx.scan(
    step,
    in_axes=(0, nnx.Carry, 0, *(None for _ in rest)),
    out_axes=(nnx.Carry, 0),
  )
  return loop(blocks, x, each, *rest)


def members(blocks: M) -> list[M]:
  """The blocks of a stack, each a module of its own (copies).

  Args:
    blocks: what `stack` made; each variable has an entry for each block.

  Raises:
    errors.UserError: if the variables disagree on how many blocks there are,
      or there are none.
  """
  graphdef, state = nnx.split(blocks)
  depths = {leaf.shape[:1] for leaf in jax.tree.leaves(state)}
  if len(depths) != 1 or () in depths:
    raise errors.UserError(
      f"{type(blocks).__name__} is no stack of blocks: the first axes of its"
      f" variables are {sorted(depths)}; give what nn.stack made"
    )
  ((depth,),) = depths
  found = [
    nnx.merge(graphdef, jax.tree.map(lambda leaf, i=i: leaf[i], state))
    for i in range(depth)
  ]
  return [mark_stack(block, -1) for block in found]
