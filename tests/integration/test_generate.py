"""`jbin generate`: a run's own words, from its workdir alone."""

import re

import pytest

from jbin import __main__

NETS = {
  "mamba": [
    "--config.model.layers=2",
    "--config.model.features=32",
    "--config.model.head_dim=16",
    "--config.model.state=8",
  ],
  "fbi_llm,labels": [
    "--config.model.layers=2",
    "--config.model.features=32",
    "--config.model.mlp_features=32",
  ],
}
SMALL = [
  "--config.length=32",
  "--config.batch_size=8",
  "--config.steps=4",
  "--config.eval_batch_size=256",
]


@pytest.fixture(scope="module")
def trained(root, tmp_path_factory):
  """`trained(net)`: the arguments of a run that was trained once."""
  made = {}

  def train(net):
    if net not in made:
      workdir = tmp_path_factory.mktemp("run")
      config = f"--config={root}/configs/bimamba_text.py:{net}"
      arguments = [config, *NETS[net], *SMALL, f"--workdir={workdir}"]
      assert __main__.main(["train", *arguments]) == 0
      made[net] = arguments
    return made[net]

  return train


def _generate(capsys, arguments, *more):
  capsys.readouterr()
  code = __main__.main(["generate", *arguments, "--new_tokens=12", *more])
  out, err = capsys.readouterr()
  return code, out, err


@pytest.mark.parametrize("net", NETS)
def test_a_text_goes_on(trained, net, capsys):
  arguments = trained(net)
  code, out, err = _generate(capsys, arguments, "--prompt=The naïve ")
  assert code == 0
  assert out.startswith("The naïve ")
  assert out.endswith("\n")
  said = r"\d+ tokens; first token after [\d.]+ s \(compiled, 11 tokens read\)"
  assert re.search(said, err)
  assert _generate(capsys, arguments, "--prompt=The naïve ")[1] == out
  other = _generate(capsys, arguments, "--prompt=The naïve ", "--seed=1")[1]
  assert other != out


def test_a_text_from_nothing_without_its_data(trained, capsys):
  arguments = trained("mamba")
  gone = "--config.data.files=('gone.txt',)"
  greedy = "--temperature=0"
  code, out, _ = _generate(capsys, arguments, gone, greedy)
  assert code == 0
  assert out == _generate(capsys, arguments, greedy)[1]


WRONG = {
  "--top_k is 'x'; it must be a whole number": ["--top_k=x"],
  "temperature is -1.0; it is 0 or more": ["--temperature=-1"],
  "is of another model": ["--config.model.layers=3"],
  "holds another model (model.eps: 'unset' -> 0.1)": ["--config.model.eps=0.1"],
  "no checkpoint in": ["--workdir=DIR/none"],
  "learned another vocabulary": ["--config.data.tokenizer=DIR/vocab.txt"],
}


@pytest.mark.parametrize("why", WRONG)
def test_what_cannot_go_on(trained, why, capsys, tmp_path):
  pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
  pieces += [f"word{i}" for i in range(256)]
  (tmp_path / "vocab.txt").write_text("\n".join(pieces) + "\n")
  more = [arg.replace("DIR", str(tmp_path)) for arg in WRONG[why]]
  code, out, err = _generate(capsys, trained("mamba"), *more)
  assert code == 2
  assert why in err
  assert not out


def test_a_model_of_images_makes_no_text(root, capsys, tmp_path):
  quick = [f"--config={root}/configs/quickstart.py", f"--workdir={tmp_path}"]
  code, _, err = _generate(capsys, quick)
  assert code == 2
  assert "data 'digits' is no text" in err
  assert __main__.main(["cost", quick[0], "--decode"]) == 2
  assert "decodes no tokens" in capsys.readouterr().err


def test_a_space_behind_the_prompt_stays(root, capsys, tmp_path):
  """Where words stand apart, the first new one is no beginning of a text."""
  pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "value", "of"]
  vocab = tmp_path / "vocab.txt"
  vocab.write_text("\n".join(pieces) + "\n")
  (tmp_path / "text.txt").write_text("the value of the value " * 200)
  arguments = [
    f"--config={root}/configs/bimamba_text.py:llama",
    *NETS["fbi_llm,labels"],
    *SMALL,
    "--config.steps=30",
    f"--config.data.files=('{tmp_path}/text.txt',)",
    "--config.data.eval_share=0.3",
    f"--config.data.tokenizer={vocab}",
    f"--workdir={tmp_path}/run",
  ]
  assert __main__.main(["train", *arguments]) == 0
  greedy = ["--temperature=0", "--prompt=the value"]
  code, out, _ = _generate(capsys, arguments, *greedy)
  assert code == 0
  assert out.startswith("the value of the")
