"""The command line: what it prints, and one clear line for what is wrong."""

import json
import re
import subprocess
import sys

import pytest

from jbin import __main__, cli
from jbin.train import counting, loop
from tests.train.conftest import TINY, tiny_config, tiny_values

__all__ = ["tiny_config", "tiny_values"]  # fixtures

CONFIG = f"--config={TINY}"
CONFIGS = TINY.parents[2] / "configs"
POKE = f"--config={CONFIGS}/pokebnn_imagenet.py"
QUICK = f"--config={CONFIGS}/quickstart.py"


def _train(*args):
  return ["train", CONFIG, "--workdir=DIR", *args]


WRONG = [
  (["trian"], "unknown command 'trian'; did you mean train?"),
  (["train"], "train needs --config=FILE.py[:ARG]"),
  (["train", CONFIG], "train needs --workdir=WORKDIR"),
  (["train", "--config=DIR/no.py", "--workdir=DIR"], "no config file"),
  (
    ["cost", f"--config={TINY.with_name('tiney.py')}"],
    "tiney.py; did you mean tiny.py?",
  ),
  (["cost", f"{CONFIG}:x"], "the argument is nothing, not 'x'"),
  (["cost", "--config=DIR/broken.py"], "does not load: ModuleNotFoundError"),
  (["cost", "--config=DIR/empty.py"], "does not load: AttributeError"),
  (
    _train("--config.stepz=1"),
    "unknown config key 'stepz'; did you mean steps?",
  ),
  (_train("--config.steps=many"), "flag --config.steps=many: invalid literal"),
  (_train("--config.steps=0"), "config key 'steps' is 0; it must be 1 or more"),
  (_train("--config.mesh.fdsp=2"), "unknown config key 'mesh.fdsp'; did you"),
  (_train("--config.model.widht=2"), "takes no argument 'widht'; did you mean"),
  (_train("--config.model.name=tinny"), "unknown model 'tinny'; did you mean"),
  (_train("--config.data.name=digit"), "unknown data source 'digit'; did you"),
  (_train("--config.seed.x=1"), "does not fit the config"),
  (["cost", CONFIG, "--config.optimizer.lr=1"], "adam' takes no argument 'lr'"),
  (["cost", CONFIG, "--config.task.name=clasify"], "unknown task 'clasify'"),
  (
    ["cost", f"{POKE}:1.0x", "--config.data.datset=x"],
    "data source 'tfds' takes no argument 'datset'; did you mean dataset?",
  ),
  (
    ["cost", f"{POKE}:nan"],
    "config key 'model.width' is nan; it must be a finite number",
  ),
  (
    ["cost", f"{POKE}:0.5x", "--config.image_size=3"],
    "the stem 'patch4' needs images of 4x4 pixels or more",
  ),
  (
    ["cost", QUICK, "--config.model.features=foo"],
    "argument 'features' of model 'pokebnn' is",
  ),
  (_train("--wrkdir=x"), "Unknown command line flag 'wrkdir'. Did you mean"),
  (_train("extra"), "train takes no argument 'extra'; flags begin with --"),
  (["eval", CONFIG, "--workdir=DIR/none"], "no checkpoint in"),
  (
    ["cost", CONFIG, "--format=jsn"],
    "unknown format 'jsn'; did you mean json?",
  ),
  (
    ["cost", QUICK, "--param_dtype=int8"],
    "unknown param_dtype 'int8'; known: bfloat16, float16, float32",
  ),
  (
    ["cost", "--diff", "A.json", "B.json", "--param_dtype=bfloat16"],
    "--param_dtype does not go with --diff; to compare such reports",
  ),
  (
    ["train", CONFIG, "--workdir=gs://bucket/run"],
    "--workdir is 'gs://bucket/run', and jbin writes to folders; mount",
  ),
  (
    ["train", CONFIG, "--config.task.teacher.name=llama", "--workdir=x"],
    "the config has no group 'teacher' yet: give it whole",
  ),
  (["list", "model"], "unknown family 'model'; did you mean models"),
  (["list", "models", "tasks"], "list takes no argument 'tasks'"),
  (["report", "--workdirs=DIR/none", "--out=DIR/o"], "no work directory"),
  (["report", "--workdirs=DIR"], "report needs --out=OUT"),
]


@pytest.mark.parametrize(("args", "message"), WRONG)
def test_one_clear_line_and_exit_code_2(args, message, tmp_path, capsys):
  (tmp_path / "broken.py").write_text("import nowhere_at_all\n")
  (tmp_path / "empty.py").write_text("")
  args = [arg.replace("DIR", str(tmp_path)) for arg in args]
  assert __main__.main(args) == 2
  out, err = capsys.readouterr()
  assert err.startswith("jbin: error: ")
  assert message in err
  assert err.count("\n") == 1
  assert out == ""


def test_control_c_is_one_line(monkeypatch, capsys):
  def run(config, workdir):
    raise KeyboardInterrupt

  monkeypatch.setattr(loop, "run", run)
  assert __main__.main(_train()) == 130
  err = capsys.readouterr().err
  assert err == (
    "jbin: error: stopped by ^C; a run goes on from its newest checkpoint\n"
  )


def test_a_workdir_that_cannot_be_written_is_one_line(tmp_path, capsys):
  (tmp_path / "file").write_text("")
  args = [arg.replace("DIR", f"{tmp_path}/file") for arg in _train()]
  assert __main__.main(args) == 1
  assert f"{tmp_path}/file: File exists" in capsys.readouterr().err


@pytest.mark.parametrize("args", [[], ["help"], ["--help"], ["-h"]])
def test_help(args, capsys):
  assert __main__.main(args) == 0
  out = capsys.readouterr().out
  assert all(f"  {command} " in out for command in __main__.COMMANDS)


@pytest.mark.parametrize("command", list(__main__.COMMANDS))
def test_help_of_a_command(command, capsys):
  with pytest.raises(SystemExit) as caught:
    __main__.main([command, "--help"])
  assert caught.value.code == 0
  assert capsys.readouterr().out.startswith(f"usage: jbin {command}")


def test_list(capsys):
  assert __main__.main(["list"]) == 0
  everything = capsys.readouterr().out
  for name in ("pokebnn", "digits", "distillation", "adam", "linear", "ace"):
    assert f"\n  {name} " in everything
  assert __main__.main(["list", "tasks"]) == 0
  tasks = capsys.readouterr().out
  assert tasks in everything
  assert tasks.startswith("tasks:\n  classification  Cross entropy")


@pytest.mark.parametrize(
  ("form", "begins"),
  [("json", "{"), ("csv", "name"), ("markdown", "#"), ("html", "<!doctype")],
)
def test_cost_formats(form, begins, tmp_path, capsys):
  out = tmp_path / "deep" / "cost"
  args = ["cost", CONFIG, f"--format={form}", f"--out={out}"]
  assert __main__.main(args) == 0
  assert capsys.readouterr().out == ""
  assert out.read_text().lower().lstrip().startswith(begins)


def test_cost_prints_a_table_of_the_overridden_config(capsys, tiny_config):
  assert __main__.main(["cost", CONFIG, "--config.model.width=16"]) == 0
  printed = capsys.readouterr().out
  wanted = counting.cost_report(tiny_config(model__width=16)).to_table()
  assert printed.strip() == wanted.strip()


def test_keys_that_the_file_leaves_out_can_be_set(tmp_path, monkeypatch):
  seen = []
  monkeypatch.setattr(loop, "run", lambda config, workdir: seen.append(config))
  args = [
    "--config.keep=7",
    "--config.dtype=bfloat16",
    "--config.tensorboard",
    "--config.task.label_smoothing=0.1",
    "--config.model.dropout=0",
    "--config.steps",
    "9",
  ]
  assert __main__.main([*_train(*args)]) == 0
  config = seen[0]
  assert (config.keep, config.dtype, config.steps) == (7, "bfloat16", 9)
  assert config.tensorboard
  assert config.task.kwargs == {"label_smoothing": 0.1}
  assert config.model.kwargs["dropout"] == 0.0


def test_train_eval_report(tmp_path, capsys):
  steps = ["--config.steps=4", "--config.log_every=2", "--config.eval_every=0"]
  args = [CONFIG, f"--workdir={tmp_path}/run", *steps]
  assert __main__.main(["train", *args]) == 0
  capsys.readouterr()
  assert __main__.main(["eval", *args]) == 0
  printed = json.loads(capsys.readouterr().out.splitlines()[-1])
  lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
  assert printed == json.loads(lines[-1])
  out = f"--out={tmp_path}/report"
  assert __main__.main(["report", f"--workdirs={tmp_path}/run", out]) == 0
  assert "index.html" in capsys.readouterr().out
  assert (tmp_path / "report" / "index.html").is_file()


def test_a_loss_that_is_not_finite_is_one_line(tmp_path, capsys):
  args = _train("--config.optimizer.learning_rate.start=1e30")
  args = [arg.replace("DIR", str(tmp_path)) for arg in args]
  assert __main__.main(args) == 1
  err = capsys.readouterr().err.splitlines()
  assert re.match(
    r"jbin: error: step \d cannot be taken: .* layer 'conv' gives", err[-1]
  )


def test_counting_loads_nothing_that_training_needs(root):
  # In another process: this one has loaded everything.
  code = (
    "import sys; from jbin import __main__;"
    f"code = __main__.main(['cost', {CONFIG!r}, '--format=json']);"
    "heavy = 'tensorflow torch orbax grain tensorflow_datasets matplotlib';"
    "loaded = [name for name in heavy.split() if name in sys.modules];"
    "sys.exit(code or (str(loaded) if loaded else 0))"
  )
  done = subprocess.run(
    [sys.executable, "-c", code], cwd=root, capture_output=True, text=True
  )
  assert done.returncode == 0, done.stderr
  assert json.loads(done.stdout)["model"] == "tiny"


def test_each_command_has_its_file():
  assert cli.__doc__
  for command in __main__.COMMANDS:
    __import__(f"jbin.cli.{command}")
