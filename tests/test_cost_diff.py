"""`jbin cost --diff A B`: what each side may be, and what it may not."""

import json

import pytest

from jbin import __main__, errors
from jbin.cli import _sides
from tests.report import conftest as made
from tests.train.conftest import tiny_config, tiny_values

__all__ = ["tiny_config", "tiny_values"]  # fixtures

QUICK = "configs/quickstart.py"
CIFAR = "configs/resnet_cifar10.py:float"


@pytest.fixture(autouse=True)
def _at_root(root, monkeypatch):
  monkeypatch.chdir(root)


def _diff(*args):
  return __main__.main(["cost", *args])


def test_two_configs(capsys):
  assert _diff("--diff", QUICK, f"{QUICK}:float") == 0
  text = capsys.readouterr().out
  assert "A  quickstart.py\nB  quickstart.py:float" in text
  assert "625x more" in text
  assert "8x8 -> 32x32" in text


def test_overrides_go_with_both_configs(capsys):
  override = "--config.model.features=(32,32)"
  args = ["--diff", QUICK, f"{QUICK}:float", override, "--format=json"]
  assert _diff(*args) == 0
  narrow = json.loads(capsys.readouterr().out)["totals"]["macs"]
  assert _diff("--diff", QUICK, f"{QUICK}:float", "--format=json") == 0
  wide = json.loads(capsys.readouterr().out)["totals"]["macs"]
  assert narrow["a"] == narrow["b"] < wide["a"]


def test_two_rule_sets_on_one_config(capsys):
  sets = ["none", "bits:w8a8,bounds_at=0"]
  args = [f"--config={CIFAR}", "--diff", *sets, "--format=json"]
  assert _diff(*args) == 0
  found = json.loads(capsys.readouterr().out)
  assert found["b"]["name"] == sets[1]
  assert found["totals"]["ace"]["b_over_a"] == 1 / 16
  assert found["layers"][0]["a"]["bits"] == "32x32"
  assert found["layers"][0]["b"]["bits"] == "8x8"


def _run(path, bits):
  (path / "report").mkdir(parents=True)
  (path / "checkpoints" / "40").mkdir(parents=True)
  (path / "report" / "cost.json").write_text(json.dumps(made.cost(bits=bits)))
  return path


def test_runs_checkpoints_and_files_mix(tmp_path, capsys):
  one, two = _run(tmp_path / "one", 1), _run(tmp_path / "two", 8)
  for a, b in (
    (one, two),
    (one / "checkpoints" / "40", two),
    (one / "report" / "cost.json", two / "checkpoints"),
  ):
    assert _diff("--diff", str(a), str(b), "--format=json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["totals"]["ace"]["b_over_a"] == 64
    assert found["counts"]["changed"] == 4


def test_a_run_without_a_report_is_counted(tmp_path, capsys, tiny_config):
  from jbin.train import config as config_lib

  text = json.dumps(config_lib.to_mapping(tiny_config()))
  (tmp_path / "config.json").write_text(text)
  assert _diff("--diff", str(tmp_path), str(tmp_path), "--format=json") == 0
  found = json.loads(capsys.readouterr().out)
  said = {"name": f"{tmp_path.name} (1)", "model": "tiny"}
  assert found["a"] == said | {"counted_for": "one example", "not_counted": []}
  assert set(found["counts"]) == {"changed", "added", "removed", "same"}
  assert not found["layers"]


@pytest.mark.parametrize(
  ("form", "begins"),
  [
    ("table", "A "),
    ("json", "{"),
    ("csv", "name"),
    ("markdown", "#"),
    ("html", "<!doctype"),
  ],
)
def test_forms(form, begins, tmp_path):
  run, out = _run(tmp_path / "run", 1), tmp_path / "deep" / "diff"
  args = ["--diff", str(run), str(run), f"--format={form}", f"--out={out}"]
  assert _diff(*args) == 0
  assert out.read_text().startswith(begins)


BAD = [
  (["--diff"], "--diff takes two of"),
  (["--diff", QUICK], "--diff takes two of"),
  (["--diff", QUICK, "--format=json"], "--diff takes two of"),
  ([f"--diff={QUICK}", QUICK], "write --diff A B, once"),
  (["--diff", QUICK, QUICK, "--diff", QUICK, QUICK], "write --diff A B, once"),
  (["--diff", QUICK, "configs/quickstrat.py"], "did you mean quickstart.py"),
  (["--diff", QUICK, "bits:w8a8"], "a rule set needs --config"),
  (["--diff", QUICK, f"{QUICK}:x"], "does not load"),
  (["--diff", QUICK, "DIR"], "neither report/cost.json nor config.json"),
  (["--diff", QUICK, "DIR/none.json"], "No such file"),
  (["--diff", QUICK, "DIR/bad.json"], "is not JSON"),
  (["--diff", QUICK, "DIR/list.json"], "is not a cost report"),
  (["--diff", QUICK, "DIR/empty.json"], "lacks totals.ace"),
  (["--diff", "DIR/ok.json", "DIR/ok.json", "--format=x"], "unknown format"),
  (["--diff", QUICK, QUICK, "--format=x"], "unknown format"),
  (["--diff", "DIR/ok.json", "DIR/ok.json", "more"], "takes no argument"),
  (
    ["--diff", "DIR/ok.json", "DIR/ok.json", f"--config={QUICK}"],
    "neither side of --diff is one",
  ),
  ([f"--config={CIFAR}", "--diff", "none", "bit:w8"], "did you mean bits"),
  ([f"--config={CIFAR}", "--diff", "none", "bits:w8a8,8"], "is no KEY=VALUE"),
  ([f"--config={CIFAR}", "--diff", "none", "none:1"], "is no KEY=VALUE"),
  ([f"--config={CIFAR}", "--diff", "none", "bits:q"], "q"),
  ([f"--config={QUICK}", "--compiled"], "add --training"),
  ([f"--config={QUICK}", "--explain=nowhere"], "unknown layer 'nowhere'"),
  ([f"--config={QUICK}", "--explain=", "--format=json"], "leave one of them"),
  (["--diff", QUICK, QUICK, "--training"], "does not go with --diff"),
  (["--diff", QUICK, QUICK, "--explain=head"], "does not go with --diff"),
  (
    [f"--config={QUICK}", "--diff", "bits:w8a8", "bits:w4a4"],
    "take a config of a float model",
  ),
  (["--config=README.md"], "is no Python file"),
  (["--config=DIR/three.py"], "get_config returns int"),
  (["--diff", "DIR/ok.json", "DIR/step.json"], "is a whole training step"),
]


@pytest.mark.parametrize(("args", "said"), BAD)
def test_bad_input_is_one_line(args, said, tmp_path, capsys):
  (tmp_path / "bad.json").write_text("{")
  (tmp_path / "list.json").write_text("[]")
  (tmp_path / "empty.json").write_text("{}")
  (tmp_path / "ok.json").write_text(json.dumps(made.cost()))
  (tmp_path / "step.json").write_text(json.dumps(made.everything()))
  (tmp_path / "three.py").write_text("def get_config():\n  return 3\n")
  args = [arg.replace("DIR", str(tmp_path)) for arg in args]
  assert _diff(*args) == 2
  err = capsys.readouterr().err
  assert err.startswith("jbin: error: ")
  assert err.count("\n") == 1
  assert said in err


def test_help_tells_of_it(capsys):
  with pytest.raises(SystemExit):
    _diff("--help")
  said = capsys.readouterr().out
  assert "--diff" in said
  example = next(w for w in said.split() if w.startswith("method:"))
  _sides._rules(example)
  from jbin import methods

  assert methods.REGISTRY.get(example[7:].split(",")[0])


def test_explain_without_a_layer_is_of_all(capsys):
  assert _diff(f"--config={QUICK}", "--explain=") == 0
  said = capsys.readouterr().out
  assert "stem/conv: conv" in said
  assert "head: dot" in said


def test_names_are_short_and_differ():
  assert _sides.names(("runs/a/x", "runs/b/x/")) == ("a/x", "b/x")
  assert _sides.names(("c.py:1", "c.py:2")) == ("c.py:1", "c.py:2")
  assert _sides.names(("c.py", "c.py")) == ("c.py (1)", "c.py (2)")


def test_values_of_rule_sets():
  rules = _sides._rules("method:xnornet,ends=same,start=0.5")
  assert rules.name == "method"
  assert rules.kwargs == {"method": "xnornet", "ends": "same", "start": 0.5}
  with pytest.raises(errors.UnknownName):
    _sides._rules("methd")
