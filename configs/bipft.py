r"""BiPFT: a binary BERT that is pretrained as such, then fine-tuned.

Paper: BiPFT: Binary Pre-trained Foundation Transformer (AAAI 2024), arXiv
2312.08937: BERT-base, weights and activations of 1 bit; on the average of GLUE
15.4 points above a binary net without binary pretraining, 13.9 of them without
the low-rank terms. Figures of single tasks are not at hand.
Hardware there: 8 GPUs. Neither is run at full size here yet.

Small (default): WikiText-2's validation and test texts, then the Stanford
sentiment treebank, both with the vocabulary of these texts. Put the two files
into the folder, or --config.data.files='("A.txt","B.txt")' and, of all stages,
--config.data.vocab_files='("A.txt","B.txt")'. Any CPU, minutes a stage.
Full size ("base"): Wiki-40B, then GLUE, as array records for TensorFlow
Datasets (set TFDS_DATA_DIR); weights and vocabulary of the Hugging Face hub's
google-bert/bert-base-uncased, or --config.start.weights=DIR,
--config.task.teacher_weights=DIR and --config.data.tokenizer=DIR.

Command (each stage starts where the one before it ended):
  jbin train --config=configs/bipft.py:pretrain_float \
    --workdir=runs/bipft/pretrain_float
  jbin train --config=configs/bipft.py:pretrain --workdir=runs/bipft/pretrain
  jbin train --config=configs/bipft.py:finetune --workdir=runs/bipft/finetune

Variations:
  configs/bipft.py:finetune_float   the float twin, from the float pretraining
  configs/bipft.py:direct           binary only from the fine-tuning on
  --config.model.low_rank=0         BiPFT-A, of both binary stages
  configs/bipft.py:pretrain,base    the paper's pretraining, in
                                    --workdir=runs/bipft/pretrain_base
  configs/bipft.py:finetune,sst2    BERT-base on that task of GLUE, and
  configs/bipft.py:direct,sst2      the same without binary pretraining
  --config.start.workdir=RUN --config.task.teacher_workdir=RUN   other runs

Differs from the paper: Wiki-40B alone, without BookCorpus; masks are drawn anew
whenever an example is read; the teacher drops nothing out; texts are padded to
one length. The small size has its own learning rates.
"""

import ml_collections

STAGES = ("pretrain_float", "pretrain", "finetune", "finetune_float", "direct")
FILES = ("wikitext2.valid.txt", "wikitext2.test.txt")
PRETRAINED = "google-bert/bert-base-uncased"
# Task of GLUE -> epochs, training examples, classes (1: a number).
TASKS = {
  "cola": (50, 8_551, 2),
  "mnli": (6, 392_702, 3),
  "mrpc": (20, 3_668, 2),
  "qnli": (10, 104_743, 2),
  "qqp": (6, 363_849, 2),
  "rte": (20, 2_490, 2),
  "sst2": (10, 67_349, 2),
  "stsb": (20, 5_749, 1),
}
SMALL = {
  "name": "bert",
  "layers": 2,
  "features": 128,
  "heads": 2,
  "mlp_features": 512,
  "vocab_size": 4096,
  "max_length": 64,
}
BASE = {"name": "bert_base", "vocab_size": 30522, "max_length": 512}
# The residual terms, the pooler's norm and the token head's ReLU are of the
# binary nets alone.
NEW = r".*/residual/.*|pooler_norm/.*|token_activation"


# The heads of the pretraining stay behind, the classifier is new.
HEADS = r"head/.*|token_head/.*"


def get_config(arg="pretrain"):
  """`arg`: STAGE, or "pretrain,base", "finetune,TASK", "direct,TASK"."""
  stage, _, full = arg.partition(",")
  known = {"pretrain": ("base",), "finetune": TASKS, "direct": TASKS}
  if stage not in STAGES:
    raise ValueError(
      f"the argument is a stage ({', '.join(STAGES)}), not {stage!r}"
    )
  if full and full not in known.get(stage, ()):
    raise ValueError(
      f"the argument is {stage!r}, or has one of"
      f" {', '.join(known.get(stage, ())) or 'none'} behind it, not {arg!r}"
    )
  pretraining = stage.startswith("pretrain")
  binary = not stage.endswith("float")
  config = ml_collections.ConfigDict()

  config.seed = 42 if full else 0
  config.length = 128 if full else 64
  config.dtype = "float32"
  config.log_every = 50
  config.keep = 2
  config.workers = 0

  config.model = ml_collections.ConfigDict(
    {
      **(BASE if full else SMALL),
      "num_classes": 2,
      "dropout": 0.1,
      "pretraining": pretraining,
      "low_rank": 1 if binary else 0,
      "pooler_residual": binary,
      "token_activation": "relu" if binary else "gelu",
    }
  )

  config.rules = ml_collections.ConfigDict({"name": "none"})
  if binary:
    config.rules = ml_collections.ConfigDict(
      {"name": "bipft", "tables": "words"}
    )

  config.start = ml_collections.ConfigDict(
    {"workdir": "", "weights": "", "fresh": ""}
  )
  config.optimizer = ml_collections.ConfigDict(
    {"name": "adamw", "weight_decay": 0.0}
  )
  if pretraining:
    _pretrain(config, stage, full)
  else:
    _finetune(config, stage, full)
  config.mesh = ml_collections.ConfigDict(
    {"data": -1 if full else 1, "fsdp": 1}
  )
  return config


def _pretrain(config, stage, full):
  """Hidden words and next sentences; of the binary net, with a teacher."""
  config.data = ml_collections.ConfigDict({"name": "masked_text"})
  config.task = ml_collections.ConfigDict({"name": "masked_lm"})
  if full:
    config.batch_size, config.steps, rate, warmup = 512, 500_000, 2e-4, 0.01
    config.data.update(dataset="wiki40b/en", tokenizer=PRETRAINED)
    config.start.update(weights=PRETRAINED, fresh=NEW)
    config.task.teacher = {**BASE, "num_classes": 2, "pretraining": True}
    config.task.update(teacher_weights=PRETRAINED, teacher_workdir="")
  else:
    config.batch_size, config.steps, rate, warmup = 32, 2000, 1e-3, 0.1
    config.data.update(
      files=FILES, vocab_files=FILES, tokenizer="wordpiece", vocab_size=4096
    )
    if stage == "pretrain":
      config.start.update(workdir="runs/bipft/pretrain_float", fresh=NEW)
      config.task.teacher_workdir = config.start.workdir
  config.optimizer.learning_rate = {
    "name": "warmup_linear",
    "start": rate,
    "warmup": warmup,
  }
  config.eval_every = config.checkpoint_every = 5000 if full else 500


def _finetune(config, stage, task):
  """A task of GLUE or the treebank, by the labels alone."""
  epochs, examples, classes = TASKS[task] if task else (5, 6_920, 2)
  config.batch_size = 32
  epoch = -(-examples // config.batch_size)  # steps
  config.steps = epochs * epoch
  config.eval_every = config.checkpoint_every = epoch
  config.data = ml_collections.ConfigDict({"name": "sentences"})
  config.task = ml_collections.ConfigDict({"name": "classification"})
  config.model.num_classes = classes
  # Constant, as the paper has it.
  small = 5e-4 if stage == "finetune_float" else 1e-3
  config.optimizer.learning_rate = 2e-5 if task else small
  source = "pretrain" if stage == "finetune" else "pretrain_float"
  source += "_base" if task else ""
  config.start.update(workdir=f"runs/bipft/{source}", fresh=HEADS)
  if stage == "direct":
    config.start.fresh = f"{HEADS}|{NEW}"
  if not task:
    config.data.update(
      dataset="stanford_sentiment",
      vocab_files=FILES,
      tokenizer="wordpiece",
      vocab_size=4096,
    )
    return
  split = "validation_matched" if task == "mnli" else "validation"
  config.data.update(
    dataset=f"glue/{task}", eval_split=split, tokenizer=PRETRAINED
  )
  if stage == "direct":
    config.start.update(workdir="", weights=PRETRAINED)
    config.start.fresh = rf"{HEADS}|{NEW}|cls\..*"
