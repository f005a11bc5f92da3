"""Devices that are only compiled for."""

from __future__ import annotations

import math
import os

from jbin.train import config as config_lib


def pretend(mesh: config_lib.Mesh) -> None:
  """Lets JAX show CPU devices for a mesh, before it looks for devices.

  Nothing is computed: an accelerator would only be locked, and be slow to
  start. What the environment says about platform or devices stays.

  Args:
    mesh: of the config; an axis of -1 is taken for 1.
  """
  os.environ.setdefault("JAX_PLATFORMS", "cpu")
  sizes = (mesh.data, mesh.fsdp, mesh.sequence, mesh.tensor)
  n = math.prod(max(1, size) for size in sizes)
  flags, key = os.environ.get("XLA_FLAGS", ""), "xla_force_host_platform_device"
  if n > 1 and key not in flags:
    os.environ["XLA_FLAGS"] = f"{flags} --{key}_count={n}".strip()
