r"""Small 1-bit language models on real text: Bi-Mamba, FBI-LLM, their twins.

Paper: Bi-Mamba (2024), arXiv 2411.11843; FBI-LLM (2024), arXiv 2407.07093. The
papers' nets are a thousand times as large, and see a million times the text.
Hardware: any CPU, minutes a run.

Data: bytes of the documentation topics that come with Python (English, 0.47 MB;
each version of Python has its own), or text files:
--config.data.files='("A.txt",)' --config.data.eval_files='("B.txt",)'.

Command, the float net, then the binary one that learns from it:
  jbin train --config=configs/bimamba_text.py:mamba --workdir=runs/text/mamba
  jbin train --config=configs/bimamba_text.py:bimamba \
    --workdir=runs/text/bimamba
  jbin generate --config=configs/bimamba_text.py:bimamba \
    --workdir=runs/text/bimamba --prompt="The value "

Variations:
  configs/bimamba_text.py:bimamba,labels   without a teacher, by the next byte
  configs/bimamba_text.py:llama            a float transformer of equal size
  configs/bimamba_text.py:fbi_llm          the binary one (and fbi_llm,labels)
  --config.task.teacher_workdir=RUN        another teacher
  --config.rules.name=bitnet158            ternary, of fbi_llm or bimamba

Differs from the papers: everything is small; one teacher of the student's own
kind, trained on the same text; learning rates and steps are set for that size.
"""

import ml_collections

NETS = {"mamba": "", "bimamba": "mamba", "llama": "", "fbi_llm": "llama"}
MAMBA = {
  "name": "mamba2",
  "layers": 3,
  "features": 128,
  "state": 32,
  "chunk": 32,
}
LLAMA = {
  "name": "llama",
  "layers": 2,
  "features": 128,
  "heads": 4,
  "mlp_features": 256,
}


def get_config(arg="bimamba"):
  """`arg`: a net; "bimamba,labels" and "fbi_llm,labels" have no teacher."""
  net, _, task = arg.partition(",")
  twin = NETS.get(net)
  if twin is None or task not in (("", "labels") if twin else ("",)):
    raise ValueError(
      f"the argument is one of {', '.join(NETS)}, behind bimamba and fbi_llm"
      f" perhaps ',labels', not {arg!r}"
    )
  config = ml_collections.ConfigDict()

  config.seed = 0
  config.steps = 1000
  config.batch_size = 16
  config.length = 256
  config.dtype = "float32"
  config.log_every = 50
  config.eval_every = config.checkpoint_every = 500
  config.keep = 2
  config.workers = 0

  config.model = ml_collections.ConfigDict(MAMBA if "mamba" in net else LLAMA)
  config.rules = ml_collections.ConfigDict({"name": net if twin else "none"})
  config.data = ml_collections.ConfigDict(
    {"name": "text", "files": (), "eval_files": (), "tokenizer": "bytes"}
  )
  config.task = ml_collections.ConfigDict({"name": "language_model"})
  if twin and not task:
    config.task.teacher_workdir = f"runs/text/{twin}"
  config.optimizer = ml_collections.ConfigDict(
    {
      "name": "adamw",
      "b1": 0.9,
      "b2": 0.95,
      "weight_decay": 0.1,
      "clip_norm": 1.0,
      "learning_rate": {
        "name": "cosine",
        "start": 3e-3,
        "end": 3e-4,
        "warmup": 0.05,
      },
    }
  )
  config.mesh = ml_collections.ConfigDict({"data": 1, "fsdp": 1, "tensor": 1})
  return config
