"""What every test shares: strict JAX, virtual devices, golden vectors.

The environment is set before anything imports JAX, and child processes
inherit it.
"""

import os
import pathlib
import signal

_ROOT = pathlib.Path(__file__).resolve().parent.parent
_DEVICES = "--xla_force_host_platform_device_count=8"

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "agg")
if _DEVICES not in os.environ.get("XLA_FLAGS", ""):
  flags = os.environ.get("XLA_FLAGS", "")
  os.environ["XLA_FLAGS"] = f"{flags} {_DEVICES}".strip()

# A shell that starts the tests in the background has ^C ignored, in children
# as well, and some tests press it.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
  signal.signal(signal.SIGINT, signal.default_int_handler)

# Compiling is most of the time that the quick tests take: LLVM takes less
# trouble. With 0, all is compiled as users do.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")
# What took long is kept between runs, in this process only: a test may kill its
# children at any moment, and half an entry would stay. `make clean` empties it.
# Workers of pytest-xdist each have their own.
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
  _cache = _ROOT / ".cache" / "jax" / os.environ.get("PYTEST_XDIST_WORKER", "")
  jax.config.update("jax_compilation_cache_dir", str(_cache))
  jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def pytest_collection_modifyitems(items):
  """Skips tests for an accelerator that this process does not run on."""
  backend = jax.default_backend()
  for item in items:
    for marker in ("gpu", "tpu"):
      if item.get_closest_marker(marker) and backend != marker:
        reason = f"needs a {marker.upper()}, this process runs on {backend}"
        item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture(scope="session")
def root():
  """The root of the repository."""
  return _ROOT


@pytest.fixture(scope="session")
def shared():
  """The folder of golden vectors and prepared data, which may be absent."""
  return pathlib.Path(os.environ.get("JBIN_SHARED", _ROOT.parent / "shared"))


@pytest.fixture(scope="session")
def golden(shared):
  """`golden(slug)`: the folder of one system's golden vectors, or a skip."""

  def folder(slug: str) -> pathlib.Path:
    path = shared / "golden" / slug
    if not path.is_dir():
      pytest.skip(
        f"no golden vectors at {path}; set JBIN_SHARED to the folder that"
        " holds golden/"
      )
    return path

  return folder
