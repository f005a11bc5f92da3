"""Images per second that jbin.data feeds, side by side in one run.

python benchmarks/data.py --data_dir=DIR   # prepared CIFAR-10
"""

import argparse
import statistics
import time

import jbin.data


def make_feeds(data_dir: str, workers: list[int]):
  """The iterators to compare, by name."""
  sources = {
    "cifar10 cached": jbin.data.tfds("cifar10", data_dir),
    "cifar10 decoded": jbin.data.tfds("cifar10", data_dir, cached=False),
    "synthetic 32x32x3": jbin.data.synthetic(),
  }
  return {
    f"{name}, {count} workers": (source, count)
    for name, source in sources.items()
    for count in workers
  }


def main():
  parser = argparse.ArgumentParser(description=__doc__)
  parser.add_argument("--data_dir", help="where CIFAR-10 is prepared")
  parser.add_argument("--batch_size", type=int, default=128)
  parser.add_argument("--batches", type=int, default=100, help="per round")
  parser.add_argument("--rounds", type=int, default=5)
  parser.add_argument("--workers", type=int, nargs="*", default=[0, 2])
  options = parser.parse_args()

  feeds = make_feeds(options.data_dir, options.workers)
  print(f"{'batch ' + str(options.batch_size):32} {'first s':>8} {'img/s':>8}")
  rates = {name: [] for name in feeds}
  # Each feed starts anew in each round, so that none reads ahead on the cores
  # while another is measured.
  first = {}
  for _ in range(options.rounds):
    for name, (source, workers) in feeds.items():
      start = time.perf_counter()
      iterator = iter(source.train(options.batch_size, 0, workers=workers))
      next(iterator)
      first.setdefault(name, time.perf_counter() - start)
      # What was read ahead before the clock starts must not count.
      for _ in range(4 * max(workers, 1)):
        next(iterator)
      start = time.perf_counter()
      for _ in range(options.batches):
        next(iterator)
      seconds = time.perf_counter() - start
      rates[name].append(options.batches * options.batch_size / seconds)
      iterator.close()
  for name, found in rates.items():
    print(f"{name:32} {first[name]:8.2f} {statistics.median(found):8.0f}")


if __name__ == "__main__":
  main()
