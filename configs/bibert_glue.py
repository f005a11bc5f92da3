r"""BiBERT on GLUE: BERT-base of one bit, from a fine-tuned one that teaches it.

Paper: BiBERT: Accurate Fully Binarized BERT (ICLR 2022), arXiv 2203.06390.
Weights, word embeddings and activations of 1 bit. There, without augmented data
(float BERT-base): mnli 66.1 (84.9), qqp 84.8 (91.4), qnli 72.6 (92.1), sst2
88.7 (93.2), cola 25.4 (59.7; Matthews), stsb 33.6 (90.1), mrpc 72.5 (86.3), rte
57.4 (72.2). The best evaluation counts there; metrics.jsonl has them all.
Hardware there: not said. Not run here yet.

Data: GLUE as array records for TensorFlow Datasets ("glue/sst2", ...); set
TFDS_DATA_DIR, or --config.data.data_dir=DIR.
Weights and vocabulary: google-bert/bert-base-uncased of the Hugging Face hub,
or --config.start.weights=DIR and --config.data.tokenizer=DIR.

Command (the float run is the start and the teacher of the other):
  jbin train --config=configs/bibert_glue.py:sst2,float \
    --workdir=runs/bibert_glue/sst2_float
  jbin train --config=configs/bibert_glue.py:sst2 \
    --workdir=runs/bibert_glue/sst2

Variations:
  --config.start.workdir=RUN --config.task.teacher_workdir=RUN  another teacher
  --config.data.eval_split=validation_mismatched                of mnli
  --config.rules.tables=all     all embeddings of 1 bit, as the paper's sizes
  jbin cost --config=configs/bibert_glue.py:mnli   11.17 G MACs: 22.35 GFLOPs
A small one that a CPU can do: configs/bibert_sst.py.

Differs from the paper: it starts from DynaBERT's fine-tuned nets, here from
BERT fine-tuned by BERT's recipe (the float run: 3 epochs, batch 32, 2e-5);
texts are padded to one length, not to that of the longest in their batch;
sign(0) is 1 (0 in its code); a score of 0 lets nothing through, as in its code
(in the paper it does).
"""

import ml_collections

PRETRAINED = "google-bert/bert-base-uncased"
# Task -> learning rate, epochs, length, steps between evaluations, seed,
# training examples, classes (1: a number).
TASKS = {
  "cola": (1e-4, 50, 64, 500, 42, 8_551, 2),
  "mnli": (5e-5, 5, 128, 1000, 42, 392_702, 3),
  "mrpc": (2e-4, 20, 128, 200, 42, 3_668, 2),
  "qnli": (1e-4, 10, 128, 1000, 101, 104_743, 2),
  "qqp": (1e-4, 5, 128, 1000, 42, 363_849, 2),
  "rte": (1e-5, 20, 128, 200, 42, 2_490, 2),
  "sst2": (1e-4, 10, 64, 200, 42, 67_349, 2),
  "stsb": (1e-4, 20, 128, 200, 42, 5_749, 1),
}
KINDS = ("binary", "float")


def get_config(arg="sst2"):
  """`arg`: TASK, or TASK,float."""
  task, _, kind = arg.partition(",")
  kind = kind or KINDS[0]
  if task not in TASKS:
    raise ValueError(
      f"the argument is a task ({', '.join(TASKS)}), not {task!r}"
    )
  if kind not in KINDS:
    raise ValueError(f"after the task comes ',float' or nothing, not {arg!r}")
  rate, epochs, length, every, seed, examples, classes = TASKS[task]
  batch_size = 16
  if kind == "float":
    rate, epochs, batch_size = 2e-5, 3, 32
  epoch = -(-examples // batch_size)  # steps
  teacher = f"runs/bibert_glue/{task}_float"
  config = ml_collections.ConfigDict()

  config.seed = seed
  config.steps = epochs * epoch
  config.batch_size = batch_size
  config.length = length
  config.dtype = "float32"
  config.log_every = 50
  config.eval_every = every
  config.checkpoint_every = epoch
  config.keep = 2
  config.workers = 0

  config.data = ml_collections.ConfigDict(
    {
      "name": "sentences",
      "dataset": f"glue/{task}",
      "train_split": "train",
      "eval_split": "validation_matched" if task == "mnli" else "validation",
      "tokenizer": PRETRAINED,
    }
  )

  config.model = ml_collections.ConfigDict(
    {
      "name": "bert_base",
      "num_classes": classes,
      "vocab_size": 30522,
      "max_length": 512,
      "dropout": 0.1,
    }
  )

  config.rules = ml_collections.ConfigDict(
    {"name": "bibert", "attention": "bool", "tables": "words"}
  )

  config.start = ml_collections.ConfigDict(
    {"workdir": teacher, "weights": "", "fresh": ""}
  )

  # Queries, keys, values and hidden states by their directions, the answers by
  # a cross entropy; the labels of a regression are left to the teacher.
  config.task = ml_collections.ConfigDict(
    {
      "name": "distillation",
      "teacher_workdir": teacher,
      "class_mean": True,
      "hard_weight": 0.0 if classes == 1 else 0.5,
      "hidden_weight": 1.0,
      "similarity_weight": 1.0,
    }
  )

  config.optimizer = ml_collections.ConfigDict(
    {
      "name": "bert_adam",
      "learning_rate": {
        "name": "warmup_linear",
        "start": rate,
        "warmup": 0.1,
      },
      "weight_decay": 0.01,
    }
  )

  if kind == "float":
    config.rules = ml_collections.ConfigDict({"name": "none"})
    config.start.workdir = ""
    config.start.weights = PRETRAINED
    # The classifier is new; the heads of the pretraining stay behind.
    config.start.fresh = r"head/.*|cls\..*"
    config.task = ml_collections.ConfigDict({"name": "classification"})

  config.mesh = ml_collections.ConfigDict({"data": -1, "fsdp": 1})
  return config
