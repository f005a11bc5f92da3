r"""Bi-Mamba: Mamba-2 language models with 1-bit weights, from scratch.

Paper: Bi-Mamba: Towards Accurate 1-Bit State Space Models (2024), arXiv
2411.11843. Perplexity there on WikiText-2 (float Mamba-2 of that size): 780m
13.4 (11.8), 1.3b 11.7 (10.4), 2.7b 10.0 (9.1). It has no 130m.
Hardware there: 4 GPUs, 8 for 2.7b; which is not said.

Data: LLM360's Amber there, 1.26e12 tokens. Here token ids in two files, written
once from any texts, such as C4's or Amber's:
  jbin.data.write_tokens("train.npy", texts, "meta-llama/Llama-2-7b-hf")
or, of sets that memory holds (TensorFlow Datasets; set TFDS_DATA_DIR),
--config.data.files=() --config.data.eval_files=() --config.data.dataset=lm1b.
Tokenizer and teacher: LLaMA-2-7B's of the Hugging Face hub, or
--config.data.tokenizer=DIR and --config.task.teacher_weights=DIR.

Command, on one host:
  jbin train --config=configs/bimamba.py:780m --workdir=runs/bimamba_780m \
    --config.mesh.fsdp=-1
On a TPU VM with several hosts the same on each, with --distributed and a
workdir in a bucket that is mounted on all of them (gcsfuse):
  gcloud compute tpus tpu-vm ssh NAME --worker=all --command="jbin train \
    --distributed --config=configs/bimamba.py:780m --workdir=/mnt/BUCKET/780m"
What a step needs on each of 8 devices, with none at hand:
  jbin cost --config=configs/bimamba.py:780m --training --compiled \
    --config.batch_size=32 --config.mesh.data=1 --config.mesh.fsdp=4 \
    --config.mesh.tensor=2

Variations:
  configs/bimamba.py:780m,labels   by the next token alone (the code's use_kd=0)
  configs/bimamba.py:780m,float    Mamba-2 itself, by the next token
  --config.task.hard_weight=0.5 --config.task.soft_weight=0.5   use_kd=2
  --config.rules.parts=in_proj     one of the two projections
  --config.model.remat=none        faster, where memory allows
  --config.mesh.tensor=2           layers split as well as parameters
FBI-LLM (arXiv 2407.07093) in its sizes llama_130m, llama_1_3b and llama_7b:
  --config.model.name=llama_1_3b --config.rules.name=fbi_llm
  --config.optimizer.learning_rate.start=3e-4
  --config.optimizer.learning_rate.end=3e-5

Differs from the paper: another corpus, if it is not given as files; a step is
one batch without accumulation, so that 256 sequences need devices for them all;
learning rates are those of a step, not of its parts; each epoch is shuffled
whole, not chunk by chunk; nothing goes back and skips a chunk after a spike of
the loss. 130m has the settings of 780m.
"""

import ml_collections

SIZES = ("130m", "780m", "1.3b", "2.7b")
TASKS = ("distill", "labels", "float")
TEACHER = "meta-llama/Llama-2-7b-hf"
LENGTH = 2048
BATCH = 256  # sequences, of all three sizes of the paper
SEQUENCES = 360 * 1_706_976  # all chunks of Amber, each once
WARMUP = 2000  # steps


def get_config(arg="780m"):
  """`arg`: SIZE, "SIZE,labels" without a teacher, or "SIZE,float"."""
  size, _, task = arg.partition(",")
  task = task or "distill"
  if size not in SIZES or task not in TASKS:
    raise ValueError(
      f"the argument is one of {', '.join(SIZES)}, then perhaps ',labels' or"
      f" ',float', not {arg!r}"
    )
  config = ml_collections.ConfigDict()

  config.seed = 11111
  config.steps = SEQUENCES // BATCH
  config.batch_size = BATCH
  config.length = LENGTH
  config.dtype = "bfloat16"
  config.log_every = 50
  config.eval_every = 5000
  config.checkpoint_every = 1000
  config.keep = 3
  config.workers = 8

  config.model = ml_collections.ConfigDict(
    {
      "name": f"mamba2_{size.replace('.', '_')}",
      "vocab_size": 32000,
      "remat": "full",
    }
  )
  config.rules = ml_collections.ConfigDict(
    {"name": "none"} if task == "float" else {"name": "bimamba"}
  )
  config.data = ml_collections.ConfigDict(
    {
      "name": "text",
      "files": ("train.npy",),
      "eval_files": ("valid.npy",),
      "dataset": "",
      "tokenizer": TEACHER,
    }
  )
  config.task = ml_collections.ConfigDict({"name": "language_model"})
  if task == "distill":
    config.task.update(
      teacher={"name": "llama_7b", "vocab_size": 32000},
      teacher_weights=TEACHER,
      teacher_workdir="",
      soft_weight=1.0,
      hard_weight=0.0,
    )
  config.optimizer = ml_collections.ConfigDict(
    {
      "name": "adamw",
      "b1": 0.9,
      "b2": 0.95,
      "eps": 1e-8,
      "weight_decay": 0.1,
      "decay": "all",
      "clip_norm": 1.0,
      "learning_rate": {
        "name": "cosine",
        "start": 2.5e-4,
        "end": 2.5e-5,
        "warmup": WARMUP / config.steps,
      },
    }
  )
  config.mesh = ml_collections.ConfigDict({"data": 1, "fsdp": -1, "tensor": 1})
  return config
