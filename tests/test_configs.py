"""Every config file makes a config, a model and a cost."""

import ast

import jax
import pytest
from flax import nnx

from jbin import errors, methods, nn, optimizers, regularizers, schedules
from jbin.cli import _flags
from jbin.train import build, config as config_lib, regularized

SPECS = [
  "quickstart.py",
  "quickstart.py:binary",
  "quickstart.py:float",
  "pokebnn_imagenet.py:1.0x",
  "pokebnn_imagenet.py:0.5x",
  "pokebnn_cifar10.py",
  "resnet50_imagenet.py:w8a8",
  "resnet50_imagenet.py:bf16",
  "resnet_cifar10.py",
  "resnet_cifar10.py:float",
  "resnet_cifar10.py:reste,resnet18",
  *(f"resnet_cifar10.py:{name}" for name in methods.REGISTRY),
]


@pytest.fixture
def config(root):
  def load(spec):
    return config_lib.from_mapping(_flags.load(str(root / "configs" / spec)))

  return load


def test_every_file_is_tested(root):
  files = {path.name for path in (root / "configs").glob("*.py")}
  assert files == {spec.split(":")[0] for spec in SPECS}


@pytest.mark.parametrize("spec", SPECS)
def test_it_makes_an_optimizer(config, spec):
  made = config(spec)
  assert callable(build.optimizer(made.optimizer).tx.update)
  rate = build.optimizer(made.optimizer).learning_rate
  assert 0 <= float(schedules.value(rate, 0.0)) < 10


@pytest.mark.parametrize(
  ("argument", "dtype"),
  [("float32", "float32"), ("bf16", "bfloat16"), ("w8a8", "bfloat16")],
)
def test_resnet50_computes_in_what_its_argument_says(config, argument, dtype):
  assert config(f"resnet50_imagenet.py:{argument}").dtype == dtype


@pytest.mark.parametrize("spec", SPECS)
def test_its_header_says_how_to_run_it(root, spec):
  name = spec.split(":")[0]
  text = (root / "configs" / name).read_text()
  assert f"jbin train --config=configs/{name}" in text


@pytest.mark.parametrize(
  "spec",
  [
    "pokebnn_imagenet.py:wide",
    "quickstart.py:ternary",
    "resnet_cifar10.py:resnet18",
  ],
)
def test_an_argument_that_it_does_not_know(config, spec):
  with pytest.raises(errors.UserError, match="the argument is"):
    config(spec)


def test_pokebnn_is_the_recipe_of_the_paper(config):
  made = config("pokebnn_imagenet.py:1.0x")
  assert (made.batch_size, made.steps, made.seed) == (8192, 124800, 0)
  kwargs = made.model.kwargs
  for step, key in ((7500, "bounds_at"), (7800, "weights_from")):
    begins = [
      step
      for step in range(7000, 8500)
      if schedules.progress_at(step, made.steps) >= kwargs[key]
    ]
    assert begins[0] == step
  rate = build.optimizer(made.optimizer).learning_rate
  for step in (0, 1, 60_000, 116_999, 117_000, 124_799):
    got = schedules.value(rate, schedules.progress_at(step, made.steps))
    want = max(6.4e-4 * (1 - step / (750 * 156)), 0.0)
    assert abs(float(got) - want) < 1e-10
  assert made.optimizer.kwargs == {"b1": 0.9, "b2": 0.99, "eps": 1e-8}
  assert made.optimizer.weight_decay_mode == "l2"
  assert made.task.name == "distillation"


def test_the_twin_differs_in_the_quantizers_alone(config):
  binary, twin = config("quickstart.py:binary"), config("quickstart.py:float")
  assert config_lib.differences(binary, config_lib.to_mapping(twin)) == [
    "model.quantized: False -> True"
  ]


def test_quickstart_counts_one_bit_products(config):
  macs = build.cost_report(config("quickstart.py")).macs
  assert macs[1, 1] > 0.5 * sum(macs.values())
  assert all(
    min(pair) >= 16
    for pair in build.cost_report(config("quickstart.py:float")).macs
  )


# --- Binarized ResNets on CIFAR-10 --------------------------------------------


def _kernels(model):
  """Path -> the kernel's quantizer, of each layer of a model."""
  return {
    "/".join(map(str, path)): part.kernel_quantizer
    for path, part in nnx.iter_modules(model)
    if isinstance(part, nn.Conv | nn.Linear)
  }


@pytest.mark.parametrize("name", ["float", *methods.REGISTRY])
def test_every_method_makes_a_resnet(root, name):
  """All but the ends and 1x1 shortcuts are quantized; the optimizer fits."""
  values = _flags.load(f"{root}/configs/resnet_cifar10.py:{name}")
  values.model.blocks = 1
  made = config_lib.from_mapping(values)
  build.check(made)
  model, _ = build.abstract_model(made)
  assert callable(build.optimizer(made.optimizer, model).tx.update)
  for path, quantizer in _kernels(model).items():
    ends = path in ("stem/conv", "head") or "shortcuts" in path
    assert (quantizer is None) == (ends or name == "float"), path


def test_xnornet_with_its_map(config):
  """K on every low-bit convolution; the method alone names the pair."""
  model, _ = build.abstract_model(config("resnet_cifar10.py:xnornet_k"))
  scales = [
    (part.input_quantizer is not None, part.output_scale)
    for _, part in nnx.iter_modules(model)
    if isinstance(part, nn.Conv)
  ]
  assert sum(low for low, _ in scales) == 18
  for low, scale in scales:
    assert isinstance(scale, nn.XnorMap) == low


def test_bonn_has_its_loss_and_proxquant_its_steps(config):
  made = config("resnet_cifar10.py:bonn")
  task = build.task(made)
  assert isinstance(task, regularized.Regularized)
  assert task.function is regularizers.bonn
  made = config("resnet_cifar10.py:proxquant")
  assert optimizers.role(made.optimizer.name) == "after"
  model, _ = build.abstract_model(made)
  state = build.optimizer(made.optimizer, model).init(nnx.state(model))
  assert "ProxQuantState" in str(jax.tree.structure(state))


def _trained(model):
  return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


@pytest.mark.parametrize(
  ("argument", "count"),
  [
    ("reste", 269_850),
    ("reste,resnet18", 11_174_986),
    ("biper", 270_522),
    ("biper,resnet18", 11_005_002),
  ],
)
def test_trained_parameters_are_those_of_the_papers_code(
  config, argument, count
):
  made = config(f"resnet_cifar10.py:{argument}")
  assert _trained(build.abstract_model(made)[0]) == count


@pytest.mark.parametrize(
  ("argument", "epochs", "batch_size", "rate"),
  [
    ("bnn", 400, 128, 1e-3),
    ("reste", 1000, 256, 0.1),
    ("reste,resnet18", 2000, 96, 0.1),
    ("recu", 600, 256, 0.1),
    ("biper", 900, 256, 0.021),
    ("bop", 500, 50, 0.01),
    ("float", 200, 128, 0.1),
  ],
)
def test_recipes(config, argument, epochs, batch_size, rate):
  made = config(f"resnet_cifar10.py:{argument}")
  assert made.batch_size == batch_size
  assert made.steps == epochs * -(-50_000 // batch_size)
  schedule = build.optimizer(made.optimizer).learning_rate
  most = max(
    float(schedules.value(schedule, step / 1000)) for step in range(1001)
  )
  assert most == pytest.approx(rate, rel=1e-3)


def test_the_papers_figures_stand_in_the_header(root):
  """Those that the small recipe's table has too."""
  text = (root / "configs/resnet_cifar10.py").read_text()
  path = root / "experiments/binarizers_cifar10/sweep.py"
  found = {}
  tree = ast.parse(path.read_text())
  for node in tree.body:
    if isinstance(node, ast.Assign) and node.targets[0].id == "PUBLISHED":
      found = ast.literal_eval(node.value)
  assert len(found) > 10
  for name, (small, large, share) in found.items():
    if small:
      assert f"{name} {small} / {large or '-'}" in text
    if share:
      assert f"{name} {share}" in text
