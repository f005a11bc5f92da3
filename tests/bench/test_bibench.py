"""BiBench's scores: the paper's own table, groups, and what is refused."""

import numpy as np
import pytest

from jbin import errors
from jbin.bench import bibench

# Table of the paper: % of the float network; columns BNN, XNOR, DoReFa,
# Bi-Real, XNOR++, ReAct, ReCU, FDA.
TASKS = np.array(
  [
    [94.54, 94.73, 95.03, 95.61, 94.52, 95.92, 96.72, 94.66],
    [75.81, 77.24, 76.61, 78.38, 75.01, 78.64, 77.98, 78.15],
    [76.97, 74.61, 76.35, 80.07, 74.41, 81.38, 81.65, 79.02],
    [77.94, 75.37, 78.31, 81.62, 79.41, 83.72, 85.66, 82.35],
    [54.19, 93.86, 93.74, 93.23, 85.20, 92.41, 95.07, 94.38],
    [48.96, 73.62, 70.79, 68.13, 41.16, 68.51, 40.65, 71.16],
    [49.75, 59.63, 66.60, 69.42, 49.33, 67.64, 50.66, 70.61],
    [75.03, 76.93, 76.64, 82.42, 68.65, 81.86, 76.98, 77.90],
  ]
)
OM_TASK = [70.82, 78.97, 79.82, 81.63, 72.89, 81.80, 77.96, 81.49]


def test_the_paper_s_table():
  hundred = np.full(8, 100.0)
  got = 100 * bibench.om_task(TASKS, hundred)
  np.testing.assert_allclose(got, OM_TASK, atol=6e-3)
  one = 100 * bibench.om_task(TASKS[:, 0], hundred)
  np.testing.assert_allclose(one, OM_TASK[0], atol=6e-3)
  families = bibench.om_arch(
    [[72.90, 83.74], [49.75, 59.63], [64.61, 85.40]],
    [100.0] * 3,
    ["cnn", "transformer", "mlp"],
  )
  np.testing.assert_allclose(100 * families, [63.15, 77.16], atol=6e-3)


def test_resnet18_on_imagenet():
  """Its shortcuts binary too, then with a scale for each output channel."""
  params, kept = np.array([11_689_512] * 2), [532_008, 536_744]
  got = bibench.compression_ratio(params, kept)
  np.testing.assert_allclose(got, [13.27, 13.20], atol=6e-3)


def test_groups_are_averaged_before_they_are_squared():
  low, full = np.array([1.0, 3.0, 2.0]), np.array([2.0, 4.0, 1.0])
  ratio = low / full
  want = np.sqrt((ratio[:2].mean() ** 2 + ratio[2] ** 2) / 2)
  for score in (bibench.om_task, bibench.om_arch):
    np.testing.assert_allclose(score(low, full, ["b", "b", "a"]), want)
  inverse = 1 / ratio
  want = np.sqrt((inverse[:2].mean() ** 2 + inverse[2] ** 2) / 2)
  np.testing.assert_allclose(bibench.om_robust(low, full, [0, 0, 1]), want)


def test_float_networks_score_one():
  numbers = np.array([3.0, 1.0, 2.0])
  assert bibench.om_task(numbers, numbers) == 1
  assert bibench.om_robust(numbers, numbers) == 1
  assert bibench.om_train(numbers, numbers, numbers, numbers) == 1
  assert bibench.om_infer(numbers, numbers, numbers, numbers) == 1
  assert bibench.om_comp(numbers, numbers, numbers, numbers) == 1


def test_all_binary_reaches_the_limits():
  nothing = np.zeros(2)
  numbers = np.array([5.0, 9.0])
  np.testing.assert_allclose(bibench.compression_ratio(numbers, nothing), 32)
  np.testing.assert_allclose(bibench.speedup_ratio(numbers, nothing), 64)
  np.testing.assert_allclose(
    bibench.om_comp(numbers, nothing, numbers, nothing),
    np.sqrt((32**2 + 64**2) / 2),
  )


def test_a_failed_run_has_no_score_and_harms_no_other():
  times = np.array([[2.0, np.nan], [4.0, 1.0]])
  got = bibench.om_infer(times, [4.0, 4.0], times / 2, [8.0, 8.0])
  assert np.isfinite(got[0])
  assert np.isnan(got[1])


@pytest.mark.parametrize(
  ("call", "text"),
  [
    (lambda: bibench.om_task([1.0, 2.0], [1.0]), "binary has 2 items and full"),
    (lambda: bibench.om_task([1.0, 0.0], [1.0, 1.0]), "binary: .*positive"),
    (lambda: bibench.om_robust([1.0], [-1.0]), "full: .*positive"),
    (lambda: bibench.om_task(1.0, 1.0), "first axis is the items"),
    (lambda: bibench.om_task([], []), "at least one"),
    (lambda: bibench.om_arch([1.0], [1.0], ["a", "b"]), "one name for each"),
    (lambda: bibench.sensitivity([1.0, 1.0], [1.0, 2.0]), "spread: "),
    (lambda: bibench.compression_ratio([2.0], [3.0]), "stays in floating"),
    (lambda: bibench.speedup_ratio([2.0], [1.0, 1.0]), "of the same shape"),
  ],
)
def test_bad_arguments_are_user_errors(call, text):
  with pytest.raises(errors.UserError, match=text):
    call()
