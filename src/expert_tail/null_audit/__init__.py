"""Stage `null_audit`: how often the evaluator calls a reference faster than itself, under each protocol.

Reads the tasks. Writes `{protocol}.parquet` (one row a repeat), and to the results folder null_audit.csv (one row per
protocol and task, and one for all tasks) and figure_null_audit as .png and .svg.
"""
