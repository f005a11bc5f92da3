"""What the README shows is run: its Python blocks, its commands' names."""

import contextlib
import io
import re

from jbin import __main__ as command_line


def _blocks(root, language):
  text = (root / "README.md").read_text()
  return re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)


def test_python_blocks_run_in_order(root):
  blocks = _blocks(root, "python")
  assert blocks
  printed, names = io.StringIO(), {}
  with contextlib.redirect_stdout(printed):
    for block in blocks:
      exec(compile(block, "README.md", "exec"), names)
  assert printed.getvalue().startswith("(1, 32)\n{(1, 1): 2048}\n")
  for block in _blocks(root, "text"):  # what it says that is printed
    assert block in printed.getvalue()
  assert names["y"].shape == (1, 32)


def test_commands_and_configs_exist(root):
  commands = re.findall(r"\bjbin (\w+) --", "\n".join(_blocks(root, "bash")))
  assert commands
  assert set(commands) <= set(command_line.COMMANDS)
  text = (root / "README.md").read_text()
  for config in set(re.findall(r"configs/\w+\.py", text)):
    assert (root / config).is_file(), config


def test_every_config_has_a_row(root):
  text = (root / "README.md").read_text()
  rows = re.findall(r"^\| `(configs/\w+\.py)", text, re.MULTILINE)
  files = {f"configs/{path.name}" for path in (root / "configs").glob("*.py")}
  assert set(rows) == files
