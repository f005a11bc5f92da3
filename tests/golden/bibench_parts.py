"""BiBench's signs entry by entry, its schedules and its scores."""

import re

import jax.numpy as jnp
import numpy as np

from jbin import estimators, quantizers, schedules
from jbin.bench import bibench
from tests.golden.compare import Reader, Vectors, pull, value

SIGNS = {
  "bnn_conv": quantizers.sign(zero=0.0),
  "dorefa_conv": quantizers.sign(zero=0.0),
  "bireal_conv": quantizers.bireal(zero=0.0),
  "xnorpp_conv": quantizers.sign(zero=0.0),
  "bnn_linear": quantizers.sign(zero=0.0),
  "xnor_linear_sign": quantizers.sign(zero=0.0),
  "dorefa_linear": quantizers.sign(edge="open", zero=0.0),
  "xnorpp_linear": quantizers.sign(edge="open", zero=0.0),
  "recu_act": quantizers.recu_activation(standardized=False, zero=0.0),
  "recu_weight_sign": quantizers.sign(None, zero=0.0),
}


def _functions(name: str):
  """What a key's name stands for: functions of (x, threshold)."""
  if name in SIGNS:
    return [lambda x, _: value(SIGNS[name](x))]
  if name.startswith("react_conv_thr"):
    return [lambda x, b: value(quantizers.rsign(zero=0.0)(x, threshold=b))]
  n = float(name.removeprefix("fda_n"))
  quiet = quantizers.fda_activation(n, 0.0, zero=0.0)
  return [
    lambda x, _: estimators.fda_sign(x, n, zero=0.0),
    lambda x, _: value(quiet(x)),
  ]


def act_special(z: Vectors):
  z = Reader(z)
  x, g = z["x"][:, None], z["g"][:, None]
  # XLA on CPU takes a subnormal for zero.
  there = ~np.char.endswith(z["labels"], "subnormal")
  names = [key[: -len("_out")] for key in z if key.endswith("_out")]
  assert names
  for name in names:
    found = re.fullmatch(r"react_conv_thr(.+)", name)
    threshold = np.float32([found[1] if found else 0])
    for function in _functions(name):
      y, (dx, db) = pull(function, g, x, threshold)
      y, dx = np.asarray(y)[:, 0], np.asarray(dx)[:, 0]
      np.testing.assert_array_equal(y[there], z[f"{name}_out"][there], name)
      assert np.isin(y[~there], (-1, 0, 1)).all()
      np.testing.assert_allclose(
        dx, z[f"{name}_gx"], rtol=1e-6, atol=1e-6, err_msg=name
      )
      if found:
        np.testing.assert_allclose(db, z[f"{name}_gthr"], rtol=2e-6)
  z.all_read()


def schedule_values(z: Vectors):
  z = Reader(z)
  fda, recu = quantizers.fda_weight(), quantizers.recu_weight()
  # Theirs is set before an epoch; FDA's alpha as it is at the epoch's end.
  rules = {
    "recu_tau": (recu.tau, 0),
    "fda_n": (fda.n, 0),
    "fda_alpha": (fda.alpha, 1),
  }
  for key in z:
    found = re.fullmatch(r"E(\d+)_(\w+)", key)
    assert found, key
    rule, late = rules[found[2]]
    epochs = int(found[1])
    progress = [
      schedules.progress_at(epoch + late, epochs) for epoch in range(epochs)
    ]
    got = rule(jnp.asarray(progress))
    if found[2] == "fda_n":
      np.testing.assert_array_equal(got, z[key])
    np.testing.assert_allclose(got, z[key], rtol=1e-6, atol=1e-6)
  z.all_read()


def metrics(z: Vectors):
  z = Reader(z)

  def same(got, want):
    np.testing.assert_allclose(got, want, rtol=1e-9)

  full, low = z["acc_fp32"], z["acc_bin"]
  same(bibench.relative_accuracy(low, full), z["rel_acc"])
  same(100 * bibench.om_task(low, full), z["om_task_percent"])
  groups = z["arch_group_id"]
  same(100 * bibench.om_arch(low, full, groups), z["om_arch_percent"])
  gaps = z["gap_bin"], z["gap_fp32"]
  same(100 * bibench.om_robust(*gaps), z["om_robust_percent"])
  spread = z["hyper_acc_bin"].T, z["hyper_acc_fp32"]
  times = z["time_bin"][None], z["time_fp32"][None]
  same(100 * bibench.sensitivity(*spread), z["sensitivity_percent"])
  same(100 * bibench.time_cost(*times), z["time_cost_percent"])
  same(100 * bibench.om_train(*times, *spread), z["om_train_percent"])
  params = z["n_params"], z["n_params_fp"]
  flops = z["flops"], z["flops_fp"]
  same(bibench.compression_ratio(*params), z["compression_ratio"])
  same(bibench.speedup_ratio(*flops), z["speedup_ratio"])
  # Three networks, scored one by one.
  each = (part[None] for part in (*params, *flops))
  same(bibench.om_comp(*each), z["om_comp"])
  times, sizes = (z[f"{what}_fp_bin"].T for what in ("infer_time", "size"))
  same(bibench.om_infer(*times[::-1], *sizes[::-1]), z["om_infer"])
  z.all_read()
