"""What two processes do in test_processes: HOST:PORT, and which this is.

Without them the launcher says so.
"""

import sys

import jax
import numpy as np
from jax.sharding import PartitionSpec as P

from jbin.train import processes, sharding


def check_words(index):
  assert processes.first() == (index == 0)
  long = "\u00e9" * 3000
  assert processes.agree({"a": [index, None], "b": long}) == {
    "a": [0, None],
    "b": long,
  }
  assert processes.agree(None if index else "") == ""
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


def main(coordinator="", index=None):
  count = 2 if coordinator else None
  with processes.joined(coordinator, count, index and int(index)):
    assert len(jax.devices()) == 4
    check_words(jax.process_index())
    check_arrays(jax.process_index())
  print("well")


if __name__ == "__main__":
  main(*sys.argv[1:])
