"""Checkpoints to test with, what restores them, and ways to damage them."""

import contextlib
import functools
import json
import resource
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from jbin.train import checkpoint, seals, sharding, words


def tree(scale=1.0):
  return {
    "kernel": scale * jnp.arange(64.0 * 32).reshape(64, 32),
    "half": jnp.ones((8,), jnp.bfloat16),
    "key": jax.random.key(7),
    "count": jnp.uint32(3),
  }


def place(values, mesh):
  return jax.device_put(values, sharding.intended(values, mesh))


def targets(values, mesh, info=None):
  del info
  abstract = jax.eval_shape(lambda: values)
  where = sharding.intended(abstract, mesh)
  lay = lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s)
  return {"model": jax.tree.map(lay, abstract, where)}


def restore(folder, mesh, keep=None, values=None):
  """(what `restore` gave, the lines that it said)."""
  said = []
  opened = checkpoint.Checkpoints(folder, keep, said.append)
  try:
    wanted = functools.partial(targets, values or tree(), mesh)
    return opened.restore(wanted), said
  finally:
    opened.close()


# --- Damage: each takes the folder of one checkpoint --------------------------


def largest(folder):
  files = [p for p in folder.rglob("*") if p.is_file()]
  return max(files, key=lambda path: path.stat().st_size)


def truncate(folder):
  path = largest(folder / "model")
  path.write_bytes(path.read_bytes()[:-7])


def flip(folder):
  flip_file(largest(folder / "model"))


def flip_file(path):
  raw = bytearray(path.read_bytes())
  raw[len(raw) // 2] ^= 4
  path.write_bytes(raw)


def remove(folder):
  largest(folder / "model").unlink()


def garble_info(folder):
  (folder / "info" / "metadata").write_text("{")


def remove_info(folder):
  shutil.rmtree(folder / "info")


def unseal(folder):
  (folder / "jbin_seal.json").unlink()


def unseal_and_flip(folder):
  unseal(folder)
  flip(folder)


def unseal_and_remove_model(folder):
  unseal(folder)
  shutil.rmtree(folder / "model")


def unseal_and_flip_info(folder):
  unseal(folder)
  flip_file(folder / "info" / "metadata")


def garble_seal(folder):
  (folder / "jbin_seal.json").write_text("[1]")


def cut_seal(folder):
  path = folder / "jbin_seal.json"
  path.write_text(path.read_text()[:50])


def empty(folder):
  shutil.rmtree(folder)
  folder.mkdir()


# --- Other formats ------------------------------------------------------------


def change_info(folder, change):
  """Writes the info anew, as `change` returns it, and seals."""
  path = folder / "info" / "metadata"
  path.write_text(json.dumps(change(json.loads(path.read_text()))))
  seals.seal(folder)


def as_format_1(folder):
  """What format 1 had: neither digests nor a checksum of the info, no guard."""
  loop = _loop_of_format_1(folder / "loop")

  def change(info):
    kept = {
      key: value
      for key, value in info.items()
      if key not in ("digests", "checksum", "jbin")
    }
    arrays = {**info["arrays"], "loop": words.shapes({"loop": loop})["loop"]}
    return {**kept, "format": 1, "arrays": arrays if loop else info["arrays"]}

  change_info(folder, change)


def _loop_of_format_1(folder):
  """Writes it: sums without the gradient's, and `bad` of each of them."""
  if not folder.is_dir():
    return {}
  with ocp.StandardCheckpointer() as saver:
    read = saver.restore(folder.absolute())
    loop = {
      name: array
      for name, array in read.items()
      if name.startswith("sums.") and "gradient_norm" not in name
    }
    loop["bad"] = np.full(len(loop) // 2, -1, np.int32)
    shutil.rmtree(folder)
    saver.save(folder.absolute(), loop)
  return loop


def as_format_9(folder):
  """A format of the future."""

  def change(info):
    info.pop("checksum")
    return seals.signed({**info, "format": 9, "jbin": "9.0"})

  change_info(folder, change)


# --- A full disk --------------------------------------------------------------


@contextlib.contextmanager
def no_file_above(size):
  """The system writes no file of more bytes, as on a disk that is full.

  It is EFBIG, not ENOSPC, and needs neither a disk nor rights.
  """
  soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
  resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
  try:
    yield
  finally:
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
