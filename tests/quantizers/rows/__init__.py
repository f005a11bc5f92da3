"""The table: every quantizer's rows; one file of rows for each theme."""

from tests.quantizers.rows import basic

ROWS = {name: rows for theme in (basic,) for name, rows in theme.rows().items()}
