"""When a candidate counts as correct, fast and confidently fast: expressions over the columns of evaluations.

fast_1 and fast_1_confident say that the speedup, or the lower end of its interval, is above 1. A missing speedup or bound
counts as not above it.
"""

import polars as pl

CORRECT = pl.col("status") == "correct"
FAST_1 = CORRECT & (pl.col("speedup") > 1).fill_null(False)
FAST_1_CONFIDENT = FAST_1 & (pl.col("speedup_low") > 1).fill_null(False)


def if_correct(column: str) -> pl.Expr:
    """The measured `column` of a correct candidate, 0 of any other and where it is missing."""
    return pl.when(CORRECT).then(column).fill_null(0.0).alias(column)
