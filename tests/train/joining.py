"""What two processes do in test_processes: HOST:PORT, and which this is.

Without them the launcher says so.
"""

import pathlib
import sys
import tempfile

import jax
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from jbin import errors
from jbin.train import alike, caching, processes, sharding


def check_words(index):
  assert processes.first() == (index == 0)
  long = "\u00e9" * 3000
  assert processes.agree({"a": [index, None], "b": long}) == {
    "a": [0, None],
    "b": long,
  }
  assert processes.agree(None if index else "") == ""
  assert processes.gather(f"\u00e9{index}") == ["\u00e90", "\u00e91"]
  processes.barrier("here")


def check_arrays(index):
  assert sharding.share(sharding.make_mesh(1, 1, 4), 8) == (0, 1)
  mesh = sharding.make_mesh(2, 2)
  part, count = sharding.share(mesh, 8)
  assert (part, count) == (index, 2)
  rows = np.arange(8).reshape(2, 4)[part]
  key = jax.random.key(7)
  with jax.transfer_guard("disallow"):
    batch = sharding.put(mesh, {"x": rows}, split=True)["x"]
    number, copy, keys = sharding.put(mesh, (np.float32(2), rows * 0, key))
    told = sharding.stops(mesh, index == 1)
  assert batch.shape == (8,)
  assert batch.sharding.spec == P(("data", "fsdp"))
  assert keys.is_fully_replicated
  assert copy.is_fully_replicated

  @jax.jit
  def look(batch, number, key, told):
    return batch @ batch * number, told.max(), jax.random.normal(key)

  squares, stop, drawn = jax.device_get(look(batch, number, keys, told))
  assert squares == 2 * (np.arange(8) ** 2).sum()
  assert stop == 1
  assert drawn == jax.random.normal(key)


def check_cache(index):
  here = pathlib.Path(tempfile.mkdtemp())
  jax.config.update("jax_compilation_cache_dir", str(here))  # by someone else
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
  assert "compile_cache=x is not used: several" in caching.keep("x")
  assert caching.keep("") == ""
  jax.device_get(jax.jit(lambda x: x * 3 + index)(np.ones(5)))
  assert list(here.iterdir()) == []
  assert not pathlib.Path("x").exists()


def check_alike(index):
  config = {"a": {"b": [1, 2.5]}, "c": None, "long": "x" * 3000}
  alike.check_same(config | {"workers": index})
  with pytest.raises(errors.UserError) as raised:
    alike.check_same(
      config | {"a": {"b": [1, 2.5 + index]}, "new": 1} if index else config
    )
  assert str(raised.value) == (
    "config key 'a.b' is [1, 2.5] in process 0 and [1, 3.5] in process 1,"
    " config key 'new' is absent in process 0 and 1 in process 1; start all"
    " with the same command, jbin and JAX"
  )
  alike.PATIENCE = 0.5
  mine = pathlib.Path(tempfile.mkdtemp())
  shared = pathlib.Path(processes.agree(str(mine)))
  alike.check_shared(shared)
  with pytest.raises(errors.UserError, match=r"process 1 does not see .* all "):
    alike.check_shared(mine)
  processes.barrier("looked")
  assert list(shared.iterdir()) == []


def main(coordinator="", index=None):
  count = 2 if coordinator else None
  with processes.joined(coordinator, count, index and int(index)):
    assert len(jax.devices()) == 4
    check_words(jax.process_index())
    check_cache(jax.process_index())
    check_alike(jax.process_index())
    check_arrays(jax.process_index())
  print("well")


if __name__ == "__main__":
  main(*sys.argv[1:])
