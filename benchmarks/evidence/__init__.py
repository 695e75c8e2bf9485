"""Does selection help? A grid of training runs on the shipped pool, and what follows from them.

`suites` declares rows, `grid` makes cells (runs) of them, `runner` runs what is missing, `results`
keeps a small JSON file per cell, `analysis` and `claims` compute from those files alone, `plots`
and `page` print.
"""
