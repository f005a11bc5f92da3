r"""BiViT on ImageNet: vision transformers of one bit, from pretrained ones.

Paper: BiViT: Extremely Compressed Binary Vision Transformers (2022), arXiv
2211.07091. Attention W1A1 (softmax-aware binarization, learned scales), MLPs
W1A32; top-1 there, and that of BiBERT's attention in the same nets: deit_t 37.9
(25.4), deit_b 69.6 (67.5), swin_t 70.8 (68.3), swin_s 75.6 (74.0), nest_t 68.7
(0.3), nest_s 74.9 (73.5) %. It has no figure of deit_s.
Hardware there: not said.

Data: ImageNet as array records for TensorFlow Datasets ("imagenet2012"); set
TFDS_DATA_DIR, or --config.data.data_dir=DIR.
Start and teacher: the float weights of the Hugging Face hub (of NesT, timm's),
or --config.start.weights=DIR and --config.task.teacher_weights=DIR. A float run
of one's own: --config.start.weights= --config.start.workdir=RUN
--config.task.teacher_weights= --config.task.teacher_workdir=RUN.

Command:
  jbin train --config=configs/bivit_imagenet.py:swin_t \
    --workdir=runs/bivit_swin_t

Variations:
  configs/bivit_imagenet.py:swin_t,w1a1    MLPs of binary inputs too
  configs/bivit_imagenet.py:swin_t,float   the float net, from nothing
  --config.rules.attention=bool            BiBERT's attention in its place
  --config.rules.mlp_start=0.0             all layers binary at once
  --config.dtype=bfloat16                  of what stays float
Its two stages as two runs of 375,450 steps, each with its own cosine: first
--config.rules.mlp=float --config.rules.mlp_start=0.0; then, from that run,
--config.rules.mlp_start=0.0 --config.start.weights= --config.start.workdir=RUN.

Cost: jbin cost --config=configs/bivit_imagenet.py:swin_t says 1.600 G OPs of
products ("OPs of BiViT"), 4.491 with ",float" and 0.256 with ",w1a1".
Differs from the paper: one cosine over both stages; batches of 512 (it names no
size); crops and mirrors alone, not DeiT's augmentation.
"""

import ml_collections

EPOCH = 2503  # steps, at batch 512
EPOCHS = 300
# Where the float weights are.
WEIGHTS = {
  "deit_t": "facebook/deit-tiny-patch16-224",
  "deit_s": "facebook/deit-small-patch16-224",
  "deit_b": "facebook/deit-base-patch16-224",
  "swin_t": "microsoft/swin-tiny-patch4-window7-224",
  "swin_s": "microsoft/swin-small-patch4-window7-224",
  "nest_t": "timm/nest_tiny_jx.goog_in1k",
  "nest_s": "timm/nest_small_jx.goog_in1k",
}
KINDS = ("w1a32", "w1a1", "float")


def get_config(arg="swin_t"):
  """`arg`: MODEL or MODEL,KIND: bits of the MLPs, or "float" for all."""
  name, _, kind = arg.partition(",")
  kind = kind or KINDS[0]
  if name not in WEIGHTS:
    raise ValueError(
      f"the argument is a model ({', '.join(WEIGHTS)}), not {name!r}"
    )
  if kind not in KINDS:
    raise ValueError(
      f"after the model comes ',' and one of {', '.join(KINDS)}, not {kind!r}"
    )
  config = ml_collections.ConfigDict()

  config.seed = 0
  config.steps = EPOCHS * EPOCH
  config.batch_size = 512
  config.image_size = 224
  config.dtype = "float32"
  config.log_every = 100
  config.eval_every = 5 * EPOCH
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
      "name": name,
      "num_classes": 1000,
      "in_features": 3,
      "drop_path": 0.0,
    }
  )

  config.rules = ml_collections.ConfigDict(
    {
      "name": "bivit",
      "attention": "sab",
      "mlp": kind,
      # Cross-layer binarization: attention first, MLPs in the second half.
      "mlp_start": 0.5,
    }
  )

  config.start = ml_collections.ConfigDict(
    {"weights": WEIGHTS[name], "workdir": ""}
  )

  # The loss is the teacher's answers alone.
  config.task = ml_collections.ConfigDict(
    {
      "name": "distillation",
      "teacher": {"name": name, "num_classes": 1000},
      "teacher_weights": WEIGHTS[name],
      "teacher_workdir": "",
      "temperature": 1.0,
    }
  )

  config.optimizer = ml_collections.ConfigDict(
    {
      "name": "adam",
      "learning_rate": {"name": "cosine", "start": 5e-4, "warmup": 5 / EPOCHS},
      "weight_decay": 0.0,
    }
  )

  if kind == "float":
    # DeiT's recipe, as far as the house has it.
    config.model.drop_path = 0.1
    config.rules = ml_collections.ConfigDict({"name": "none"})
    config.start.weights = ""
    config.task = ml_collections.ConfigDict(
      {"name": "classification", "label_smoothing": 0.1}
    )
    config.optimizer.name = "adamw"
    config.optimizer.weight_decay = 0.05

  config.mesh = ml_collections.ConfigDict({"data": -1, "fsdp": 1})
  return config
