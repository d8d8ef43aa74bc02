"""When a candidate counts as correct, fast and confidently fast: expressions over the columns of evaluations.

fast_1 and fast_1_confident say that the speedup, or the lower end of its interval, is above 1. A missing speedup or bound
or one that is not a number counts as not above it.
"""

import polars as pl

CORRECT = pl.col("status") == "correct"


def _is_above_one(column: str) -> pl.Expr:
    return (pl.col(column).is_not_nan() & (pl.col(column) > 1)).fill_null(False)  # polars orders NaN above all numbers


FAST_1 = CORRECT & _is_above_one("speedup")
FAST_1_CONFIDENT = FAST_1 & _is_above_one("speedup_low")


def if_correct(column: str) -> pl.Expr:
    """The measured `column` of a correct candidate, 0 of any other and where it is missing or not a number."""
    return pl.when(CORRECT).then(column).fill_nan(0.0).fill_null(0.0).alias(column)
