"""Scores that compare methods over many runs, from the numbers of runs."""

from jbin.bench import bibench

__all__ = ["bibench"]
