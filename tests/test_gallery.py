"""The gallery is made from the code: a few cards here, the page when slow."""

import importlib.util
import re
import sys

import numpy as np
import pytest


@pytest.fixture(scope="module")
def gallery(root):
  path = root / "docs" / "gallery.py"
  spec = importlib.util.spec_from_file_location("gallery", path)
  module = importlib.util.module_from_spec(spec)
  sys.modules["gallery"] = module
  spec.loader.exec_module(module)
  return module


def test_a_scheduled_estimator_has_a_curve_for_each_progress(gallery):
  curves = gallery.curves_of_estimator("reste_sign")
  assert [curve.progress for curve in curves] == [0.0, 0.5, 1.0]
  for curve in curves:
    np.testing.assert_array_equal(curve.value, np.where(curve.x >= 0, 1, -1))
  early, _, late = (curve.gradient for curve in curves)
  assert late.max() > 2 * early.max()


def test_a_quantizer_s_gradient_is_the_diagonal(gallery):
  (curve,) = gallery.curves_of_quantizer("dorefa_activation")
  inside = (curve.x >= 0) & (curve.x <= 1)
  np.testing.assert_allclose(curve.gradient, inside, atol=1e-5)


@pytest.mark.parametrize(
  ("family", "name"), [("estimators", "swish_sign"), ("quantizers", "rsign")]
)
def test_a_card_says_what_a_reader_needs(gallery, family, name):
  curves = getattr(gallery, f"curves_of_{family[:-1]}")(name)
  text = gallery.card(family, name, curves)
  assert text.count("<svg") == 2
  assert "At zero</b> 1" in text
  assert "the official code: " in text
  assert "@" in text  # BibTeX
  assert "<script" not in text
  for path in re.findall(r' d="([^"]+)"', text):
    assert "nan" not in path


@pytest.mark.slow
def test_the_page_has_every_member(gallery):
  text = gallery.page()
  for family in (gallery.estimators, gallery.quantizers):
    for name in family.REGISTRY:
      assert f'-{name}"' in text
  assert len(text.encode()) < 2_000_000
