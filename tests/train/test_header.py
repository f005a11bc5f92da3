"""The header of a run: what it says is what the program says."""

import json

import jax
import pytest

import jbin
from jbin.train import header, program, sharding

CONV, HEAD = 4 * 4 * 9 * 8, 128 * 10  # multiply-accumulates of an example


@pytest.fixture(scope="module")
def made(changed_config):
  """The step of a tiny net with a binary head, whole and compiled."""
  config = changed_config(
    model__binary=True, mesh={"data": 1, "fsdp": 2}, image_size=8
  )
  step = program.of(config)
  mesh = sharding.of(config.mesh)
  return step, mesh, step.compile(mesh)


@pytest.fixture(scope="module")
def found(made):
  return header.describe(*made, seconds=1.25, step=6)


def test_it_says_with_what_and_on_what(found):
  assert found["versions"]["jbin"] == jbin.__version__
  assert found["versions"]["jax"] == jax.__version__
  assert found["devices"] == {"kind": "cpu", "count": 2}
  assert found["processes"] == 1
  assert found["mesh"] == {"data": 1, "fsdp": 2, "sequence": 1, "tensor": 1}
  assert (found["step"], found["steps"]) == (6, 20)
  assert found["batch"] == {"examples": 64, "tokens": 0, "accumulate": 1}
  assert json.loads(json.dumps(found)) == found


def test_it_counts_parameters_and_latent_ones(found):
  count = 9 * 8 + 2 * 8 + HEAD + 10
  want = {"count": count, "latent": HEAD, "bytes": 4 * count}
  assert found["parameters"] == want


def test_its_cost_is_that_of_forward_and_backward(found):
  """The first layer has no gradient of its inputs; the head's are 1 bit."""
  cost = found["cost"]
  assert cost["macs"] == 64 * (2 * CONV + 3 * HEAD)
  assert cost["model_flops"] == 2 * cost["macs"]
  assert cost["recomputed_macs"] == 0
  assert cost["ace"] < 32 * 32 * cost["macs"]
  one_bit = 64 * HEAD * 1
  assert cost["ace"] >= 64 * 2 * CONV * 32 * 32 + one_bit


def test_its_memory_is_what_xla_plans(made, found):
  sizes = made[2].memory_analysis()
  memory = found["memory"]
  assert memory["temporary"] == sizes.temp_size_in_bytes > 0
  assert 0 < memory["aliased"] <= memory["results"]
  parts = ("arguments", "temporary", "results")
  whole = sum(memory[part] for part in parts) - memory["aliased"]
  assert memory["total"] == whole
  assert "memory" not in header.describe(*made[:2])


def test_its_text_is_a_few_aligned_lines(found):
  lines = header.text(found).splitlines()
  assert len(lines) == 7
  assert len({len(line) - len(line.split(None, 1)[1]) for line in lines}) == 1
  assert (
    "2 x cpu of 1 process; mesh: data 1, fsdp 2, sequence 1, tensor 1"
    in lines[1]
  )
  assert f"{HEAD:,} of them latent" in lines[2]
  assert lines[-1].endswith("after step 6 of 20")


def test_each_start_adds_a_line_also_behind_one_cut_off(tmp_path, found):
  path = tmp_path / "run.jsonl"
  header.append(path, found)
  with path.open("a") as file:
    file.write('{"started": "20')
  header.append(path, found)
  first, cut, last = path.read_text().splitlines()
  assert json.loads(first) == json.loads(last) == found
  assert cut == '{"started": "20'


def test_the_folders_commit_if_it_has_one(tmp_path, monkeypatch, found):
  assert set(found.get("git", {})) in (set(), {"commit", "changed"})
  monkeypatch.chdir(tmp_path)
  monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
  assert header._commit() is None


@pytest.mark.parametrize(
  ("n", "text"),
  [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (3 << 30, "3 GiB")],
)
def test_sizes(n, text):
  assert header.size(n) == text
