"""What counts as a success where a measurement is missing or is no number."""

import math

import polars as pl

from expert_tail.success import FAST_1, FAST_1_CONFIDENT, if_correct


def test_what_is_no_number_is_no_success() -> None:
    rows = [
        ("correct", 1.2, 1.1, True, True, 1.2),
        ("correct", 1.2, 0.9, True, False, 1.2),
        ("correct", 1.2, None, True, False, 1.2),
        ("correct", 1.2, math.nan, True, False, 1.2),
        ("correct", math.nan, math.nan, False, False, 0.0),
        ("correct", None, None, False, False, 0.0),
        ("incorrect", 2.0, 2.0, False, False, 0.0),
    ]
    columns = ["status", "speedup", "speedup_low", "fast_1", "fast_1_confident", "value"]
    found = pl.DataFrame(rows, schema=columns, orient="row").with_columns(
        found=FAST_1, found_confident=FAST_1_CONFIDENT, found_value=if_correct("speedup")
    )
    assert found["found"].to_list() == found["fast_1"].to_list()
    assert found["found_confident"].to_list() == found["fast_1_confident"].to_list()
    assert found["found_value"].to_list() == found["value"].to_list()
