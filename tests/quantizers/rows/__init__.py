"""The table: every quantizer's rows; one file of rows for each theme."""

from tests.quantizers.rows import (
  adaptive,
  bases,
  basic,
  bibench,
  classic,
  clipped,
  integer,
  learned_step,
  sharpening,
  transformers,
)

THEMES = (
  adaptive,
  bases,
  basic,
  bibench,
  classic,
  clipped,
  integer,
  learned_step,
  sharpening,
  transformers,
)
ROWS = {name: rows for theme in THEMES for name, rows in theme.rows().items()}
