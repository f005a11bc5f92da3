"""A wrong config is one clear message, whatever is wrong with it.

Each config is prepared as `jbin train --dry-run` does before it compiles.
"""

import hypothesis
import pytest

from jbin import errors
from jbin.train import config as config_lib, dry
from tests import fuzzing


def _check(case):
  """Works, or says in one line which key is wrong and what to do."""
  try:
    dry.prepare(config_lib.from_mapping(case.values))
  except errors.UserError as error:
    message = str(error)
    assert not fuzzing.complaints(case, message), message


_settings = hypothesis.settings(
  deadline=None,
  derandomize=True,
  database=None,
  suppress_health_check=list(hypothesis.HealthCheck),
)


@hypothesis.settings(_settings, max_examples=100)
@hypothesis.given(fuzzing.cases(list(fuzzing.SPECS)))
def test_one_wrong_thing_works_or_is_one_clear_message(case):
  _check(case)


@pytest.mark.slow
@hypothesis.settings(_settings, max_examples=1500)
@hypothesis.given(fuzzing.cases([*fuzzing.SPECS, *fuzzing.MORE]))
def test_many_wrong_things_work_or_are_one_clear_message(case):
  _check(case)


@pytest.mark.slow
@pytest.mark.parametrize("spec", [*fuzzing.SPECS, *fuzzing.MORE])
def test_without_a_change_it_works(spec):
  dry.prepare(config_lib.from_mapping(fuzzing.base(spec)))
