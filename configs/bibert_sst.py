r"""BiBERT on the Stanford sentiment treebank: a small BERT of one bit.

Paper: BiBERT: Accurate Fully Binarized BERT (ICLR 2022), arXiv 2203.06390. Its
SST-2 are phrases of this treebank: float BERT-base 93.2 %, plain binary 77.6,
BiBERT 88.7. The net, of 2 layers of 128 features, is ours, as are the learning
rate and the epochs.

Data: Stanford sentiment as array records for TensorFlow Datasets; set
TFDS_DATA_DIR, or --config.data.data_dir=DIR. Its vocabulary is learned from the
6,920 training sentences.
Hardware: any CPU; minutes of one core a run.

Command (the float run is the start and the teacher of the others):
  jbin train --config=configs/bibert_sst.py:float \
    --workdir=runs/bibert_sst/float
  jbin train --config=configs/bibert_sst.py:bibert \
    --workdir=runs/bibert_sst/bibert

Variations:
  :plain           signs of probabilities, which are all 1, and only the answers
                   of the teacher
  :attention       plain, with scores compared with zero in place of softmax
  :distillation    plain, with the teacher's directions and hidden states
  :bibert          both
  --config.start.workdir=RUN --config.task.teacher_workdir=RUN  of another
  --config.seed=1  another start

Differs from the paper: net, epochs and learning rate; no pretraining; whole
sentences, not phrases; texts are padded to one length; sign(0) is 1 (0 in its
code).
"""

import ml_collections

EPOCH = 433  # steps, at batch 16
EPOCHS = 5
VOCAB_SIZE = 4096
LENGTH = 64  # longer than 99 of 100 sentences
# Kind -> the attention, and whether the inside of the teacher is matched.
KINDS = {
  "float": ("", False),
  "plain": ("softmax", False),
  "attention": ("bool", False),
  "distillation": ("softmax", True),
  "bibert": ("bool", True),
}


def get_config(arg="bibert"):
  """`arg`: the kind of net and of teaching."""
  if arg not in KINDS:
    raise ValueError(f"the argument is one of {', '.join(KINDS)}, not {arg!r}")
  attention, inside = KINDS[arg]
  config = ml_collections.ConfigDict()

  config.seed = 0
  config.steps = EPOCHS * EPOCH
  config.batch_size = 16
  config.length = LENGTH
  config.dtype = "float32"
  config.log_every = 50
  config.eval_every = EPOCH
  config.checkpoint_every = EPOCH
  config.keep = 1
  config.workers = 0

  config.data = ml_collections.ConfigDict(
    {
      "name": "sentences",
      "dataset": "stanford_sentiment",
      "train_split": "train",
      "eval_split": "validation",
      "tokenizer": "wordpiece",
      "vocab_size": VOCAB_SIZE,
    }
  )

  config.model = ml_collections.ConfigDict(
    {
      "name": "bert",
      "num_classes": 2,
      "layers": 2,
      "features": 128,
      "heads": 2,
      "mlp_features": 512,
      "vocab_size": VOCAB_SIZE,
      "max_length": LENGTH,
      "dropout": 0.1,
    }
  )

  config.rules = ml_collections.ConfigDict({"name": "none"})
  config.task = ml_collections.ConfigDict({"name": "classification"})
  if attention:
    teacher = "runs/bibert_sst/float"
    config.rules = ml_collections.ConfigDict(
      {"name": "bibert", "attention": attention, "tables": "words"}
    )
    config.start = ml_collections.ConfigDict({"workdir": teacher})
    config.task = ml_collections.ConfigDict(
      {
        "name": "distillation",
        "teacher_workdir": teacher,
        "class_mean": True,
        "hard_weight": 0.5,
        "hidden_weight": float(inside),
        "similarity_weight": float(inside),
      }
    )

  config.optimizer = ml_collections.ConfigDict(
    {
      "name": "bert_adam",
      "learning_rate": {
        "name": "warmup_linear",
        "start": 5e-4,
        "warmup": 0.1,
      },
      "weight_decay": 0.01,
    }
  )

  config.mesh = ml_collections.ConfigDict({"data": 1, "fsdp": 1})
  return config
