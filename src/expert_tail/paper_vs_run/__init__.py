"""The paper_vs_run stage: the published numbers of arXiv 2602.07670 beside those of this run, into paper_vs_run.csv.

`published.csv` has one published number a row, and where this run's counterpart is: a file of the results folder, the
conditions that a row of it meets (`key=value`, joined by `;`, an empty value for an empty cell), and a column. In
statistics.json and config.yaml the column is a path: names of keys joined by `/`, and `key=value` (joined by `&`) for an item
of a list. Rates are fractions in 0..1. Tables are numbered in the order of a public draft of the day before.
"""

from pathlib import Path

PUBLISHED = Path(__file__).parent / "published.csv"
