r"""EcoFormer on ImageNet: attention between hash codes, from pretrained nets.

Paper: EcoFormer: Energy-Saving Attention with Linear Complexity (2022), arXiv
2209.09004. Two runs: from the published weights with softmax over all tokens,
100 epochs; from that with hash codes, 30. Top-1 of these, and energy in 1e9 pJ:
b0 70.44 % (2.5), b1 78.38 (9.4), b2 81.28 (17.8), b3 81.96 (30.25), b4 81.90
(44.25), twins_s 80.22 (12.6). b0 with softmax: 70.77 % (9.25).

Data: ImageNet as array records for TensorFlow Datasets ("imagenet2012"); set
TFDS_DATA_DIR, or --config.data.data_dir=DIR.
Start of the first run: PVTv2's weights of the Hugging Face hub, or
--config.start.weights=DIR; Twins' are not read: it begins with random numbers,
or goes on from a run with --config.model.attention=svt.
Hardware there: 8 GPUs. Not run yet, so no hours are known.

Command:
  jbin train --config=configs/ecoformer_imagenet.py:b0,full \
    --workdir=runs/ecoformer_b0_full
  jbin train --config=configs/ecoformer_imagenet.py:b0,hash \
    --workdir=runs/ecoformer_b0 --config.start.workdir=runs/ecoformer_b0_full

Variations:
  configs/ecoformer_imagenet.py:b2,hash    b0 to b4, twins_s
  --config.model.shift=consistent          weights as the denominator has them
  --config.dtype=bfloat16                  of all but hashes and their sums
Cost: `jbin cost --config=configs/ecoformer_imagenet.py:b0` says 2.44e9 pJ of
products at 45 nm, 9.14e9 with ",full"; experiments/cost_tables has the paper's
count, which charges norms and biases too.
Differs from the paper: crops and mirrors alone, not DeiT's augmentation (mixup,
cutmix, RandAugment, erasing, repeated images); warm-up from 0. No branches are
dropped: the code says 0.1 or 0.2, and trains in evaluation mode, which drops
none.
"""

import ml_collections

EPOCH = 5004  # steps, at batch 256
BATCH = 256
MODELS = {
  **{f"b{n}": f"pvt_v2_b{n}" for n in range(5)},
  "twins_s": "twins_svt_s",
}
STEPS = ("hash", "full")
# Of the published weights, the layers that softmax over all tokens has not.
REDUCTIONS = r".*\.attention\.(spatial_reduction|layer_norm)\..*"


def get_config(arg="b0"):
  """`arg`: MODEL or MODEL,STEP: "b0", "b0,hash", "twins_s,full"."""
  name, _, step = arg.partition(",")
  step = step or STEPS[0]
  if name not in MODELS:
    raise ValueError(
      f"the argument is a model ({', '.join(MODELS)}), not {name!r}"
    )
  if step not in STEPS:
    raise ValueError(
      f"the argument is {name!r} and perhaps ',' and one of"
      f" {', '.join(STEPS)}, not {arg!r}"
    )
  epochs = 100 if step == "full" else 30
  # For 512 examples; codes of Twins learn five times as fast.
  rate = 25e-5 if arg in ("twins_s", "twins_s,hash") else 5e-5
  config = ml_collections.ConfigDict()

  config.seed = 0
  config.steps = epochs * EPOCH
  config.batch_size = BATCH
  config.image_size = 224
  config.dtype = "float32"
  config.log_every = 100
  config.eval_every = EPOCH
  config.checkpoint_every = EPOCH
  config.keep = 3
  config.workers = 16

  config.data = ml_collections.ConfigDict(
    {
      "name": "tfds",
      "dataset": "imagenet2012",
      "preset": "inception",
      "train_split": "train",
      "eval_split": "validation",
    }
  )

  config.model = ml_collections.ConfigDict(
    {
      "name": MODELS[name],
      "num_classes": 1000,
      "in_features": 3,
      "attention": step,
      "bits": 16,
      "anchors": 25,
      "similar": 10,
      "shift": "own",
      "drop_path": 0.0,
    }
  )

  config.rules = ml_collections.ConfigDict({"name": "none"})
  config.start = ml_collections.ConfigDict(
    {"weights": "", "workdir": "", "fresh": ""}
  )
  if step == "full" and name != "twins_s":
    config.start.weights = f"OpenGVLab/{MODELS[name]}"
    config.start.fresh = REDUCTIONS

  config.task = ml_collections.ConfigDict(
    {"name": "classification", "label_smoothing": 0.1}
  )

  config.optimizer = ml_collections.ConfigDict(
    {
      "name": "adamw",
      "learning_rate": {
        "name": "cosine",
        "start": rate * BATCH / 512,
        "end": 1e-6,
        "warmup": 5 / epochs,
      },
      "weight_decay": 0.05,
    }
  )

  config.mesh = ml_collections.ConfigDict({"data": -1, "fsdp": 1})
  return config
