r"""Binarized ResNets on CIFAR-10: each method with its own paper's recipe.

Data: CIFAR-10 as array records for TensorFlow Datasets; set TFDS_DATA_DIR, or
--config.data.data_dir=DIR.
Hardware: one GPU or TPU. Not run yet, so no hours are known.

Command:
  jbin train --config=configs/resnet_cifar10.py:reste --workdir=runs/reste

Variations:
  configs/resnet_cifar10.py:METHOD            of `jbin list methods`, ResNet-20
  configs/resnet_cifar10.py:METHOD,resnet18   the same on ResNet-18
  configs/resnet_cifar10.py:float             no binarizer, ReLU
  --config.rules.start=0.1                    floats for the first tenth
A small recipe that a CPU can do: experiments/binarizers_cifar10.

Expected (top-1 % in the papers or their code, ResNet-20 / ResNet-18):
  reste 86.75 / 92.63    biper 86.98 / 93.75    recu 87.5 / 92.8
  irnet 86.5 / 91.5      rbnn 86.5 / 92.2       siman 87.4 / 92.5
  adabin 88.1 / -
BiBench (arXiv 2301.11233), in % of the float nets' top-1, mean of its nets:
  bnn 94.54   xnornet 94.73   bireal 95.61 (its DoReFa is another operator)
  xnorpp 94.52   react 95.92   recu 96.72   fda 94.66
No CIFAR-10 figure of a ResNet is at hand for the others. bop has its paper's
recipe for another net, proxquant its code's, the rest BiBench's, or the one of
BiBench's float nets where activations are float or have several bits.

Differs from the papers: weight decay reaches kernels only, and PACT's its bound
(ReSTE's and BiPer's reach all parameters); BiPer's rates are those of its
ResNet-18 (others are not published); ReSTE's ResNet-18 starts from He's fan-in
(the framework's default there); BiBench and ProxQuant start from trained float
nets; BiPer has one cosine and one weight decay for both of its stages (it
restarts at 0.0037, and decays by 0.00016 there); BNN+ has no regulariser unless
asked (--config.regularizer.name=bnnplus_r1 --config.regularizer.tau=...); BONN
lacks its feature loss, its recipe is BiBench's, nu ours; ReActNet has no
teacher; images are normalised alike for all. Of IR-Net, RBNN, SiMaN and AdaBin
the shortcuts and norms that their sources leave open are ours.
"""

import ml_collections

IMAGES = 50_000
NETS = ("resnet20", "resnet18")

# --- What is around the binary layers ----------------------------------------

RELU = {"activation": "relu"}
HARDTANH = {"activation": "hardtanh"}
BIREAL = {**HARDTANH, "shortcut": "conv"}
IRNET = {"resnet20": BIREAL, "resnet18": HARDTANH}
RESTE = {
  "resnet20": {
    "order": "conv_act_norm",
    "projection": "slice_pad",
    "head_norm": True,
    "zero_gamma": False,
    "init": "fan_in",
  },
  "resnet18": {
    "order": "conv_act_norm",
    "head_norm": True,
    "zero_gamma": False,
    "init": "fan_in",
  },
}
PARAMETER_FREE = {
  **HARDTANH,
  "projection": "pool_pad",
  "head_norm": True,
  "zero_gamma": False,
  "init": "fan_in",
}
RECU = {
  "resnet20": {**PARAMETER_FREE, "shortcut": "conv"},
  "resnet18": {**PARAMETER_FREE, "stem_activation": False},
}

# --- How long and how fast ----------------------------------------------------


def sgd(epochs, batch_size, rate=0.1, decay=1e-4, warmup=0):
  """Momentum 0.9, L2, a cosine to 0 after `warmup` epochs of a line."""
  return {
    "epochs": epochs,
    "batch_size": batch_size,
    "optimizer": {
      "name": "sgd",
      "momentum": 0.9,
      "learning_rate": {
        "name": "cosine",
        "start": rate,
        "warmup": warmup / epochs,
      },
      "weight_decay": decay,
      "weight_decay_mode": "l2",
    },
  }


FLOAT = sgd(200, 128)
BIBENCH = {
  "epochs": 400,
  "batch_size": 128,
  "optimizer": {
    "name": "adam",
    "learning_rate": {"name": "cosine", "start": 1e-3},
    "weight_decay": 0.0,
  },
}
LONG_RESTE = {
  "resnet20": sgd(1000, 256, warmup=5),
  "resnet18": sgd(2000, 96, warmup=5),
}

# --- What else a method brings ------------------------------------------------

CLIPPED = {"optimizer": {"clip_latents": 1.0}}
BIPER = {
  "regularizer": {
    "name": "biper",
    "omega": 20.0,
    "tau": {
      "name": "piecewise",
      "boundaries": (2 / 3,),
      "values": (0.037, 0.0468),
    },
  }
}
SIMAN = {
  "optimizer": {"shrink_percent": {"name": "linear", "start": 15.0, "end": 0.0}}
}
MAP = {"rules": {"output_scale": "XnorMap"}}
# The strength is the paper's; the modes' weight is ours.
BONN = {"regularizer": {"name": "bonn", "strength": 1e-4, "nu": 1e-3}}
# Pulled harder each epoch, frozen at their signs after two thirds.
PROXQUANT = {
  "epochs": 300,
  "batch_size": 128,
  "optimizer": {"name": "proxquant", "learning_rate": 0.01},
}
BOP = {
  "epochs": 500,
  "batch_size": 50,
  "optimizer": {
    "name": "bop",
    "threshold": 1e-8,
    "gamma": {
      "name": "piecewise",
      "boundaries": (0.2, 0.4, 0.6, 0.8),
      "values": (1e-4, 1e-5, 1e-6, 1e-7, 1e-8),
    },
    "learning_rate": 0.01,
    "others": {"name": "adam"},
  },
}

# IR-Net's sharpness: its script for ResNet-20 begins a hundred times softer.
IRNET_T = {
  "resnet20": {
    "rules": {"t": {"name": "exponential", "start": 1e-3, "end": 10.0}}
  },
  "resnet18": {},
}

# Method -> what is around it, its recipe, what else it brings (groups of the
# config to add to). A structure or a recipe that depends on the net is a group
# with the nets' names.
METHODS = {
  "float": (RELU, FLOAT, {}),
  "bnn": (HARDTANH, BIBENCH, CLIPPED),
  "xnornet": (HARDTANH, BIBENCH, {}),
  "xnornet_k": (HARDTANH, BIBENCH, MAP),
  "dorefa": (HARDTANH, BIBENCH, {}),
  "bireal": (BIREAL, BIBENCH, {}),
  "xnorpp": (HARDTANH, BIBENCH, {}),
  "bonn": (HARDTANH, BIBENCH, BONN),
  "react": ({**BIREAL, "activation": "rprelu"}, BIBENCH, {}),
  "fda": (HARDTANH, BIBENCH, {}),
  "recu": (RECU, sgd(600, 256, decay=5e-4, warmup=5), {}),
  "biper": (RECU, sgd(900, 256, 0.021, 1.6e-3, warmup=5), BIPER),
  "reste": (RESTE, LONG_RESTE, {}),
  "irnet": (IRNET, sgd(400, 128), IRNET_T),
  "rbnn": (PARAMETER_FREE, sgd(1000, 256), {"rules": {"epochs": 1000}}),
  "siman": (PARAMETER_FREE, sgd(400, 256), SIMAN),
  "adabin": ({**BIREAL, "activation": "maxout"}, sgd(400, 128), {}),
  "poke": ({**BIREAL, "activation": "dprelu"}, BIBENCH, {}),
  "bop": (HARDTANH, BOP, {}),
  "bnnplus": (HARDTANH, BIBENCH, {}),
  "lab": (BIREAL, BIBENCH, {}),
  "dsq": (HARDTANH, BIBENCH, {}),
  "abcnet": (HARDTANH, BIBENCH, {}),
  "bit": (HARDTANH, BIBENCH, {}),
  "bivit": (HARDTANH, BIBENCH, {}),
  "bibert": (HARDTANH, BIBENCH, {}),
  "ste_tern": (HARDTANH, BIBENCH, {}),
  # Float or several-bit activations: the float nets' structure and recipe.
  "binaryconnect": (RELU, FLOAT, CLIPPED),
  "proxquant": (RELU, PROXQUANT, {}),
  "twn": (RELU, FLOAT, {}),
  "ttq": (RELU, FLOAT, {}),
  "fbi": (RELU, FLOAT, {}),
  "bitnet": (RELU, FLOAT, {}),
  "bitnet158": (RELU, FLOAT, {}),
  "lqnet": (RELU, FLOAT, {}),
  "lsq": (RELU, FLOAT, {"rules": {"signed": False}}),
  "pact": (RELU, FLOAT, {"optimizer": {"decay": "learned"}}),
  "integer": (RELU, FLOAT, {}),
}


def get_config(arg="reste"):
  """`arg`: METHOD or METHOD,NET."""
  method, _, net = arg.partition(",")
  net = net or NETS[0]
  if method not in METHODS:
    raise ValueError(
      f"the argument is a method ({', '.join(METHODS)}), not {method!r}"
    )
  if net not in NETS:
    raise ValueError(
      f"after the method comes ',resnet20' or ',resnet18', not {arg!r}"
    )
  structure, recipe, more = METHODS[method]
  structure = structure.get(net, structure)
  recipe = recipe.get(net, recipe)
  more = more.get(net, more)
  epoch = -(-IMAGES // recipe["batch_size"])  # steps
  config = ml_collections.ConfigDict()

  config.seed = 0
  config.steps = recipe["epochs"] * epoch
  config.batch_size = recipe["batch_size"]
  config.image_size = 32
  config.dtype = "float32"
  config.log_every = 50
  config.eval_every = 5 * epoch
  config.checkpoint_every = 5 * epoch
  config.keep = 2
  config.workers = 0

  config.data = ml_collections.ConfigDict(
    {
      "name": "tfds",
      "dataset": "cifar10",
      "preset": "cifar",
      "train_split": "train",
      "eval_split": "test",
    }
  )

  config.model = ml_collections.ConfigDict(
    {
      "name": net,
      "stem": "conv3",
      "num_classes": 10,
      "in_features": 3,
      **structure,
    }
  )

  config.rules = ml_collections.ConfigDict({"name": "none"})
  if method != "float":
    config.rules = ml_collections.ConfigDict(
      {"name": "method", "method": method}
    )
    if structure.get("projection", "conv") == "conv":
      # As everywhere in these papers, 1x1 shortcuts stay float.
      config.rules.keep = (".*shortcuts.*",)

  config.task = ml_collections.ConfigDict({"name": "classification"})
  config.optimizer = ml_collections.ConfigDict(recipe["optimizer"])
  for group, values in more.items():
    config[group] = {**config.get(group, {}), **values}
  config.mesh = ml_collections.ConfigDict({"data": -1, "fsdp": 1})
  return config
