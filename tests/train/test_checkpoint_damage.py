"""Damage of any kind is named, and the last good checkpoint is used."""

import ast
import io
import pickle
import pickletools
import shutil
import sys

import jax
import numpy as np
import pytest

import jbin
from jbin import errors
from jbin.train import checkpoint, seals, sharding
from tests.train import saved

_unpickled = []


def _note(event, args):
  if event == "pickle.find_class" and _unpickled:
    _unpickled.append(args)


sys.addaudithook(_note)  # cannot be taken back, so it listens on demand


@pytest.fixture
def unpickled():
  """What was unpickled meanwhile, behind a first entry."""
  _unpickled.append("listening")
  yield _unpickled
  _unpickled.clear()


@pytest.fixture(scope="module")
def mesh():
  return sharding.make_mesh(1, 1)


@pytest.fixture(scope="module")
def made(tmp_path_factory, mesh):
  """A folder with checkpoints 2 and 3 whose kernels are scaled by the step."""
  folder = tmp_path_factory.mktemp("made") / "checkpoints"
  opened = checkpoint.Checkpoints(folder, 3)
  for step in (2, 3):
    values = saved.place(saved.tree(step), mesh)
    opened.save(step, {"model": values}, {"data": step})
  opened.close()
  return folder


@pytest.fixture
def two(made, tmp_path):
  """A copy."""
  return shutil.copytree(made, tmp_path / "checkpoints")


def _is_of(step, found):
  info, groups = found
  want = saved.tree(step)
  same = (groups["model"]["kernel"] == np.asarray(want["kernel"])).all()
  return info["step"] == step and same and int(groups["model"]["count"]) == 3


@pytest.mark.parametrize(
  ("damage", "said"),
  [
    (saved.truncate, "bytes, and had"),
    (saved.flip, "has other contents than were written"),
    (saved.remove, "is missing"),
    (saved.garble_info, "bytes, and had"),
    (saved.remove_info, "is missing"),
    (saved.garble_seal, "jbin_seal.json is not as it was written"),
    (saved.cut_seal, "jbin_seal.json is not as it was written"),
    (saved.unseal_and_flip, "the values of 'kernel' are not those saved"),
    (saved.unseal_and_flip_info, "info/metadata"),
    (saved.unseal_and_remove_model, "was not found in the checkpoint"),
    (saved.empty, "without which it is no checkpoint"),
  ],
  ids=lambda x: getattr(x, "__name__", ""),
)
def test_damage_is_named_and_the_last_good_one_used(two, mesh, damage, said):
  damage(two / "3")
  found, lines = saved.restore(two, mesh, keep=3)
  assert _is_of(2, found)
  assert len(lines) == 1
  assert lines[0].startswith("checkpoint 3 is damaged and passed over: ")
  assert said in lines[0]
  assert "\n" not in lines[0]
  # It is out of the way: its step can be saved again.
  assert (two.parent / "checkpoints.damaged" / "3").is_dir()
  opened = checkpoint.Checkpoints(two, 3)
  opened.save(3, {"model": saved.place(saved.tree(9), mesh)}, {})
  opened.close()
  (_, groups), lines = saved.restore(two, mesh)
  assert lines == []
  want = np.asarray(saved.tree(9)["kernel"])
  assert (groups["model"]["kernel"] == want).all()


def test_no_flipped_bit_of_an_unsealed_one_gives_other_values(two, mesh):
  # Its process died between Orbax's last file and the seal.
  saved.unseal(two / "3")
  files = [path for path in (two / "3").rglob("*") if path.is_file()]
  assert len(files) > 10
  passed = []
  for path in files:
    raw = path.read_bytes()
    if not raw:
      continue
    saved.flip_file(path)
    found, lines = saved.restore(two, mesh)
    assert _is_of(2 if lines else 3, found), path
    passed += [path] if lines else []
    path.write_bytes(raw)
  assert saved.largest(two / "3" / "model") in passed
  assert two / "3" / "info" / "metadata" in passed


def test_a_seal_that_was_being_written_is_no_damage(two, mesh):
  seal = two / "3" / "jbin_seal.json"
  draft = seal.with_name(seal.name + ".draft")
  draft.write_text(seal.read_text()[:99])
  seal.unlink()
  found, lines = saved.restore(two, mesh)
  assert _is_of(3, found)
  assert lines == []
  draft.write_text("")  # of one that was killed
  seals.seal(two / "3")
  assert not draft.exists()
  assert saved.restore(two, mesh)[1] == []


def test_foreign_files_are_left_alone(two, mesh):
  (two / "notes.txt").write_text("mine")
  (two / "4").write_text("a file, not a checkpoint")
  for name in ("lost+found", "4.orbax-checkpoint-tmp-1", "best"):
    (two / name).mkdir()
    (two / name / "x").write_text("x")
  (two / "3" / "notes.txt").write_text("mine")
  found, lines = saved.restore(two, mesh, keep=3)
  assert _is_of(3, found)
  assert lines == []
  assert (two / "notes.txt").read_text() == "mine"
  assert (two / "best" / "x").is_file()


def test_reading_moves_nothing(two, mesh):
  saved.flip(two / "3")
  found, lines = saved.restore(two, mesh)
  assert _is_of(2, found)
  assert len(lines) == 1
  assert (two / "3").is_dir()


def test_all_damaged_is_an_error(two, mesh):
  for step in "23":
    saved.flip(two / step)
  with pytest.raises(errors.UserError, match=r"every checkpoint in .* damaged"):
    saved.restore(two, mesh)


# --- While saving -------------------------------------------------------------


def test_the_last_save_is_verified(tmp_path, mesh, monkeypatch):
  opened = checkpoint.Checkpoints(tmp_path / "c", 2)
  opened.save(1, {"model": saved.place(saved.tree(), mesh)}, {})
  seal = seals.seal

  def seal_then_damage(folder):
    seal(folder)
    saved.flip(folder)

  monkeypatch.setattr(seals, "seal", seal_then_damage)
  with pytest.raises(errors.RunFailed, match="damaged right after it was sav"):
    opened.close()


@pytest.mark.parametrize("then", ["wait", "save", "close"])
def test_a_full_disk_is_told_in_one_line(two, mesh, then, capfd):
  opened = checkpoint.Checkpoints(two, 3)
  noise = jax.random.normal(jax.random.key(0), (256, 256))
  groups = {"model": {"noise": noise}}
  args = (5, groups, {}) if then == "save" else ()
  with saved.no_file_above(50_000):
    opened.save(4, groups, {})
    with pytest.raises(errors.RunFailed) as caught:  # Orbax knows it late
      getattr(opened, then)(*args)
  opened.close()  # says nothing more
  assert "checkpoint 4 could not be saved in" in str(caught.value)
  assert str(two) in str(caught.value)
  assert "File too large" in str(caught.value)
  assert "the checkpoint of step 3 is good; make room" in str(caught.value)
  assert capfd.readouterr().err == ""  # nothing of Orbax
  found, lines = saved.restore(two, mesh, keep=3)
  assert _is_of(3, found)
  assert lines == []
  # What was half written is in nobody's way.
  again = checkpoint.Checkpoints(two, 3)
  again.save(4, groups, {})
  again.close()
  assert (two / "4" / "jbin_seal.json").is_file()


def test_a_file_in_the_way(tmp_path):
  (tmp_path / "file").write_text("")
  with pytest.raises(NotADirectoryError) as caught:
    checkpoint.Checkpoints(tmp_path / "file" / "checkpoints", 3)
  assert caught.value.filename == str(tmp_path / "file" / "checkpoints")


# --- Nothing is unpickled -----------------------------------------------------


class _Evil:
  def __reduce__(self):
    return print, ("a pickle was run",)


def test_no_pickle_is_written_or_run(two, mesh, unpickled, capsys):
  files = [path for path in two.rglob("*") if path.is_file()]
  for path in files:
    with pytest.raises(ValueError):  # noqa: PT011 - it says many things
      pickletools.dis(path.read_bytes(), out=io.StringIO())
  pickle.loads(pickle.dumps(_Evil()))
  assert "was run" in capsys.readouterr().out  # so it would be seen
  assert len(unpickled) == 2
  evil = pickle.dumps(_Evil())
  (two / "3" / "model" / "more.pkl").write_bytes(evil)
  for path in (two / "3").rglob("*"):
    if path.is_file() and path.name not in ("jbin_seal.json", "more.pkl"):
      raw = path.read_bytes()
      path.write_bytes(evil)
      for sealed in (True, False):
        if sealed:
          seals.seal(two / "3")
        else:
          saved.unseal(two / "3")
        found, lines = saved.restore(two, mesh)
        assert _is_of(2 if lines else 3, found)
      path.write_bytes(raw)
  assert "was run" not in capsys.readouterr().out
  assert len(unpickled) == 2


def test_nothing_in_jbin_unpickles(root):
  for path in sorted((root / "jbin").rglob("*.py")):
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.Import | ast.ImportFrom):
        names = [alias.name for alias in node.names]
        names.append(getattr(node, "module", None) or "")
        assert not {"pickle", "dill", "cloudpickle", "shelve"} & {*names}, path
      elif isinstance(node, ast.keyword):
        assert node.arg != "allow_pickle", path
  assert jbin.__file__.startswith(str(root))


def test_a_digest_sees_what_is_flipped_in_any_number():
  x = jax.random.normal(jax.random.key(0), (64, 10))
  one = x.at[0, 0].set(-x[0, 0])
  two = one.at[3, 4].set(-x[3, 4])
  swapped = x.at[0].set(x[1]).at[1].set(x[0])
  given = (x, -x, one, two, swapped)
  assert len({seals.digests({"a": each})["a"] for each in given}) == 5
