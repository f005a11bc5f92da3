"""Reports of runs and of costs: one HTML page, and tables for the terminal."""

from jbin.report._diff import Diff, diff
from jbin.report._diff_text import (
  csv_text as diff_csv,
  markdown as diff_markdown,
  table as diff_table,
)
from jbin.report._page import cost_page, diff_page, write
from jbin.report._summary import summary

__all__ = [
  "Diff",
  "cost_page",
  "diff",
  "diff_csv",
  "diff_markdown",
  "diff_page",
  "diff_table",
  "summary",
  "write",
]
