"""Every config file makes a config, a model and a cost."""

import ast

import jax
import pytest
from flax import nnx

from jbin import errors, methods, nn, optimizers, regularizers, schedules
from jbin.cli import _flags
from jbin.train import build, config as config_lib, counting, regularized

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
  "bivit_imagenet.py",
  "bivit_imagenet.py:deit_s",
  "bivit_imagenet.py:nest_t,w1a1",
  "bivit_imagenet.py:swin_s,float",
  "bivit_cifar10.py",
  *(f"bivit_cifar10.py:{name}" for name in ("float", "bibert", "plain")),
  "bivit_cifar10.py:bivit_together,w1a32",
  "bibert_glue.py",
  "bibert_glue.py:stsb",
  "bibert_glue.py:mnli,float",
  "bibert_sst.py",
  "bibert_sst.py:float",
  "bibert_sst.py:plain",
  "bipft.py",
  "bipft.py:finetune",
  "bipft.py:pretrain,base",
  "bipft.py:direct,rte",
  "ecoformer_imagenet.py",
  "ecoformer_imagenet.py:b4,full",
  "ecoformer_imagenet.py:twins_s",
  *(f"ecoformer_cifar10.py:{name}" for name in ("sr", "full", "hash")),
  *(f"bimamba.py:{name}" for name in ("780m", "130m,labels", "2.7b,float")),
  *(f"bimamba_text.py:{name}" for name in ("mamba", "fbi_llm,labels")),
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
    "bivit_imagenet.py:float",
    "bivit_cifar10.py:swin_t",
    "bivit_cifar10.py:plain,w1a32",
    "bibert_glue.py:sst",
    "bibert_sst.py:binary",
    "bipft.py:base",
    "bipft.py:finetune_float,sst2",
    "ecoformer_imagenet.py:sr",
    "ecoformer_imagenet.py:b0,sr",
    "ecoformer_cifar10.py:msa",
    "bimamba.py:7b",
    "bimamba.py:780m,hard",
    "bimamba_text.py:mamba,labels",
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
  macs = counting.cost_report(config("quickstart.py")).macs
  assert macs[1, 1] > 0.5 * sum(macs.values())
  assert all(
    min(pair) >= 16
    for pair in counting.cost_report(config("quickstart.py:float")).macs
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


# --- BiViT --------------------------------------------------------------------


@pytest.mark.parametrize(
  ("argument", "billions"),
  [
    ("swin_t,float", "4.491"),
    ("swin_t", "1.600"),
    ("swin_t,w1a1", "0.256"),
    ("deit_t,float", "1.254"),
    ("deit_t", "0.386"),
    ("deit_t,w1a1", "0.048"),
  ],
)
def test_bivit_costs_what_the_paper_counts(config, argument, billions):
  """Without the data set, and with all layers that are binary in the end."""
  report = counting.cost_report(config(f"bivit_imagenet.py:{argument}"))
  assert f"{report.total('biv_ops') / 1e9:.3f}" == billions


def test_bivit_learns_from_the_float_net_that_it_starts_from(config):
  """Attention first, then MLPs; the teacher's answers are all of the loss."""
  made = config("bivit_imagenet.py:swin_t")
  assert made.start.weights == made.task.kwargs["teacher_weights"]
  task = build.task(made)
  assert task.teacher.model == {"name": "swin_t", "num_classes": 1000}
  assert dict(task.weights)["soft"] == 1
  assert not dict(task.weights)["hard"]
  assert made.rules.kwargs["mlp_start"] == 0.5
  rate = build.optimizer(made.optimizer).learning_rate
  assert float(schedules.value(rate, 5 / 300)) == pytest.approx(5e-4)
  assert made.optimizer.weight_decay == 0
  twin = config("bivit_imagenet.py:swin_t,float")
  assert (twin.start.weights, twin.task.name) == ("", "classification")


@pytest.mark.parametrize("name", ["float", "bivit", "bibert", "plain"])
def test_every_way_of_a_small_bivit_makes_a_model(config, name):
  made = config(f"bivit_cifar10.py:{name}")
  build.check(made)
  model, _ = build.abstract_model(made)
  low = {
    "/".join(map(str, path))
    for path, part in nnx.iter_modules(model)
    if getattr(part, "kernel_quantizer", None) is not None
  }
  layers = ("attn/query", "attn/key", "attn/value", "attn/out")
  binary = {f"blocks/{at}" for at in (*layers, "mlp/fc1", "mlp/fc2")}
  assert low == (set() if name == "float" else binary)


# --- EcoFormer ----------------------------------------------------------------


@pytest.mark.parametrize(
  ("argument", "energy"),
  [("b0", "2.44"), ("b0,full", "9.14"), ("twins_s,hash", "12.49")],
)
def test_ecoformer_costs_what_its_header_says(config, root, argument, energy):
  report = counting.cost_report(config(f"ecoformer_imagenet.py:{argument}"))
  assert f"{report.total('energy_45nm') / 1e9:.2f}" == energy
  text = (root / "configs/ecoformer_imagenet.py").read_text()
  assert argument[:2] != "b0" or f" {energy}e9 " in text.replace("\n", " ")


@pytest.mark.parametrize(
  ("argument", "epochs", "rate", "weights"),
  [
    ("b2,full", 100, 2.5e-5, "OpenGVLab/pvt_v2_b2"),
    ("b2", 30, 2.5e-5, ""),
    ("twins_s", 30, 1.25e-4, ""),
    ("twins_s,full", 100, 2.5e-5, ""),
  ],
)
def test_ecoformer_is_the_recipe_of_the_paper(
  config, argument, epochs, rate, weights
):
  made = config(f"ecoformer_imagenet.py:{argument}")
  assert (made.batch_size, made.steps) == (256, 5004 * epochs)
  schedule = build.optimizer(made.optimizer).learning_rate
  ends = [float(schedules.value(schedule, at)) for at in (5 / epochs, 1.0)]
  assert ends == pytest.approx([rate, 1e-6])
  assert made.optimizer.weight_decay == 0.05
  assert made.start.weights == weights
  assert bool(made.start.fresh) == bool(weights)


@pytest.mark.parametrize("name", ["sr", "full", "hash"])
def test_every_step_of_a_small_ecoformer_makes_a_model(config, name):
  """All stages but the last have as many tokens as a hash has anchors."""
  made = config(f"ecoformer_cifar10.py:{name}")
  build.check(made)
  model, _ = build.abstract_model(made)
  kinds = [isinstance(s.blocks.attn, nn.HashAttention) for s in model.stages]
  assert kinds == [name == "hash"] * 2 + [False]
  assert made.model.kwargs["anchors"] <= 64
