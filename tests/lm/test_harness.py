"""The lm-evaluation-harness on tasks that are written here."""

import json
import math

import numpy as np
import pytest

from jbin import data, errors
from jbin.lm import harness
from tests.lm.counting import Counting

# Its own, on import and in use: not ours to answer for.
pytestmark = pytest.mark.filterwarnings("ignore")

VOCAB, END = 261, 3
QUESTIONS = [
  {"query": f"Which comes {word}?", "choices": choices, "gold": i % 2}
  for i, (word, choices) in enumerate(
    [
      ("first", ["the egg", "a hen", "neither"]),
      ("second", ["Monday", "Tuesday"]),
      ("last", ["z", "omega", "no end", "a"]),
      ("then", ["spring", "autumn"]),
      ("after Zoë", ["who", "what"]),
    ]
  )
]
CHOICE = """
task: toy_choice
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/questions.jsonl}, cache_dir: FOLDER}
test_split: test
output_type: multiple_choice
doc_to_text: "{{query}}"
doc_to_target: "{{gold}}"
doc_to_choice: "{{choices}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
  - {metric: acc_norm, aggregation: mean, higher_is_better: true}
"""
ROLLING = """
task: toy_text
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/questions.jsonl}, cache_dir: FOLDER}
test_split: test
output_type: loglikelihood_rolling
doc_to_text: ""
doc_to_target: "{{query}}"
metric_list:
  - {metric: bits_per_byte}
"""
WRITING = """
task: toy_writing
dataset_path: json
dataset_kwargs: {data_files: {test: FOLDER/questions.jsonl}, cache_dir: FOLDER}
test_split: test
output_type: generate_until
doc_to_text: "{{query}}"
doc_to_target: "{{choices[0]}}"
generation_kwargs: {until: ["\\n"], max_gen_toks: 6, do_sample: false}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""


def _nats(context, continuation):
  """-log p of a continuation, by the formula of the model."""
  text = list(context)
  total = 0.0
  for token in continuation:
    scores = -((sum(text) - np.arange(VOCAB)) % VOCAB) * 0.01
    total -= scores[token] - math.log(np.exp(scores).sum())
    text.append(token)
  return total


def _ids(text):
  return [b + 5 for b in text.encode()]


@pytest.fixture
def adapter():
  pytest.importorskip(
    "lm_eval", reason="no lm_eval; pip install jbin[harness] to test with it"
  )
  return harness.adapter(
    Counting(VOCAB, slope=0.01),
    data.read_tokenizer("bytes"),
    length=64,
    batch_size=2,
  )


def _run(adapter, folder, *texts):
  import lm_eval
  from lm_eval import tasks

  lines = "".join(json.dumps(each) + "\n" for each in QUESTIONS)
  (folder / "questions.jsonl").write_text(lines)
  for i, text in enumerate(texts):
    path = folder / f"task{i}.yaml"
    path.write_text(text.replace("FOLDER", str(folder)))
  manager = tasks.TaskManager(include_path=str(folder), include_defaults=False)
  names = [text.split()[1] for text in texts]
  return lm_eval.simple_evaluate(
    adapter, tasks=names, task_manager=manager, bootstrap_iters=0
  )


def test_tasks_of_each_kind(adapter, tmp_path):
  """Choices, bits per byte and texts are those of the formulas."""
  found = _run(adapter, tmp_path, CHOICE, ROLLING, WRITING)
  best, normed = [], []
  for each in QUESTIONS:
    context = _ids(each["query"])
    nats = [_nats(context, _ids(f" {x}")) for x in each["choices"]]
    size = [len(x) for x in each["choices"]]
    best.append(np.argmin(nats) == each["gold"])
    normed.append(np.argmin(np.divide(nats, size)) == each["gold"])
  scores = found["results"]["toy_choice"]
  assert scores["acc,none"] == pytest.approx(np.mean(best))
  assert scores["acc_norm,none"] == pytest.approx(np.mean(normed))
  for sample in found["samples"]["toy_choice"]:
    each = QUESTIONS[sample["doc_id"]]
    for (got, _), choice in zip(
      sample["filtered_resps"], each["choices"], strict=True
    ):
      nats = _nats(_ids(each["query"]), _ids(f" {choice}"))
      assert float(got) == pytest.approx(-nats, rel=1e-4)
  texts = [each["query"] for each in QUESTIONS]
  nats = sum(_nats([2], _ids(text)) for text in texts)
  size = sum(len(text.encode()) for text in texts)
  scores = found["results"]["toy_text"]
  assert scores["bits_per_byte,none"] == pytest.approx(
    nats / math.log(2) / size, rel=1e-4
  )
  decode = data.read_tokenizer("bytes").decode
  for sample in found["samples"]["toy_writing"]:
    text = _ids(QUESTIONS[sample["doc_id"]]["query"])
    new = []
    for _ in range(6):
      new.append(sum([*text, *new]) % VOCAB)
      if new[-1] == END:
        break
    expected = decode(new).split("\n")[0]
    assert sample["resps"][0][0] == expected


def _asked(*pairs):
  from lm_eval.api import instance

  return [
    instance.Instance("loglikelihood", {}, pair, i)
    for i, pair in enumerate(pairs)
  ]


def test_long_texts_are_cut_as_the_harness_cuts_them(adapter):
  text = "A text of more than sixty-four bytes, for it goes on and on." * 3
  (got,) = adapter.loglikelihood_rolling(_asked((text,)))
  ids = _ids(text)
  nats, done = _nats([2], ids[:64]), 64
  while done < len(ids):
    stop = min(done + 64, len(ids))
    # The last window is full, of which only the end is new.
    nats += _nats(ids[stop - 65 : done], ids[done:stop])
    done = stop
  assert got == pytest.approx(-nats, rel=1e-4)
  ((total, greedy),) = adapter.loglikelihood(_asked((text, " end")))
  assert not greedy
  nats = _nats([*ids, *_ids(" end")][-65:-4], _ids(" end"))
  assert total == pytest.approx(-nats, rel=1e-4)


def test_a_first_token_before_each_context(adapter):
  started = harness.adapter(adapter.model, adapter.words, bos=True, prefix=END)
  found = started.loglikelihood(_asked(("Ab", "c"), ("", "c")))
  for (total, _), context in zip(
    found, ([END, *_ids("Ab")], [END]), strict=True
  ):
    assert total == pytest.approx(-_nats(context, _ids("c")), rel=1e-4)


def test_settings_of_generation(adapter):
  until, count, sampling = harness._settings({"until": "a"})
  assert (until, count, sampling.temperature) == (["a"], 256, 0.0)
  _, count, sampling = harness._settings(
    {"do_sample": True, "top_k": 3, "max_gen_toks": 2}
  )
  assert (count, sampling.temperature, sampling.top_k) == (2, 1.0, 3)
  quiet = {"do_sample": False, "temperature": 0.7}
  assert harness._settings(quiet)[2].temperature == 0.0
  assert harness._settings({"temperature": 0.7})[2].temperature == 0.7
  with pytest.raises(errors.UserError, match="setting num_beams is not known"):
    harness._settings({"num_beams": 4})
  asked = [("Ab" * 60, {"until": ["b"], "max_gen_toks": 5}), ("", {})]
  found = adapter.generate_until(_asked(*asked))
  assert len(found) == 2
  assert "b" not in found[0]


def test_without_the_harness(monkeypatch):
  import sys

  harness._kind.cache_clear()
  monkeypatch.setitem(sys.modules, "lm_eval.api", None)
  words = data.read_tokenizer("bytes")
  with pytest.raises(errors.UserError, match=r"pip install jbin\[harness\]"):
    harness.adapter(Counting(VOCAB), words)
