"""Rates and shares of a clock that the test turns."""

import types

import jax
import pytest

from jbin import cost
from jbin.train import speed


class Clock:
  def __init__(self):
    self.now = 100.0

  def __call__(self):
    return self.now


@pytest.fixture
def clock():
  return Clock()


def test_rates_are_those_since_the_last_call(clock):
  watch = speed.Speed(examples=64, step=10, clock=clock)
  clock.now += 4
  assert watch.take(30) == {
    "seconds": 4.0,
    "steps_per_second": 5.0,
    "examples_per_second": 320.0,
    "wait_data": 0.0,
    "wait_device": 0.0,
  }
  clock.now += 2
  assert watch.take(32)["steps_per_second"] == 1.0


def test_what_is_waited_for_is_a_share(clock):
  watch = speed.Speed(examples=1, clock=clock)
  for _ in range(2):
    with watch.waiting("data"):
      clock.now += 1
    with watch.waiting("device"):
      clock.now += 3
    clock.now += 4
  found = watch.take(2)
  assert (found["wait_data"], found["wait_device"]) == (2 / 16, 6 / 16)
  clock.now += 1
  assert watch.take(3)["wait_data"] == 0.0


def test_time_aside_is_no_training(clock):
  """Nor is what is waited for in it."""
  watch = speed.Speed(examples=1, clock=clock)
  clock.now += 1
  with watch.aside(), watch.waiting("device"):
    clock.now += 50
  with watch.aside():
    clock.now += 50
  found = watch.take(1)
  assert (found["seconds"], found["wait_device"]) == (1.0, 0.0)


def test_tokens_and_flops_where_they_are_known(clock):
  watch = speed.Speed(
    examples=2, tokens=8, flops=400.0, devices=4, peak=1000.0, clock=clock
  )
  clock.now += 1
  found = watch.take(5)
  assert found["tokens_per_second"] == 40
  assert found["model_flops_per_second"] == 500
  assert found["mfu"] == 0.5


def test_no_peak_no_share_of_it(clock):
  watch = speed.Speed(examples=2, flops=400.0, clock=clock)
  clock.now += 1
  assert "mfu" not in watch.take(1)
  assert speed.peak_of(jax.devices("cpu")[0], "float32") is None


@pytest.mark.parametrize(
  ("kind", "dtype", "peak"),
  [
    ("TPU v4", "float32", 275e12),
    ("TPU v5 lite", "bfloat16", 197e12),
    ("TPU v5", "bfloat16", 459e12),
    ("TPU v6 lite", "bfloat16", 918e12),
    ("NVIDIA A100-SXM4-80GB", "float32", 156e12),
    ("NVIDIA H100 80GB HBM3", "bfloat16", 989.4e12),
    ("NVIDIA H100 PCIe", "bfloat16", None),
    ("cpu", "float32", None),
  ],
)
def test_the_peak_of_a_device_that_jax_names(kind, dtype, peak):
  device = types.SimpleNamespace(device_kind=kind)
  assert speed.peak_of(device, dtype) == peak


def test_every_chip_has_its_own_names():
  kinds = [kind for name in cost.CHIPS for kind in cost.CHIPS.get(name)().kinds]
  assert len(kinds) == len(set(kinds)) >= len(cost.CHIPS)


def test_tokens_of_a_batch():
  batch = {"tokens": jax.ShapeDtypeStruct((4, 16), int)}
  assert speed.tokens_of(batch) == 64
  assert (
    speed.tokens_of({"image": jax.ShapeDtypeStruct((4, 8, 8, 1), int)}) == 0
  )
