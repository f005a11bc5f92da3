"""Reports of finished runs: one HTML page, and a table for the terminal."""

from jbin.report._page import cost_page, write
from jbin.report._summary import summary

__all__ = ["cost_page", "summary", "write"]
