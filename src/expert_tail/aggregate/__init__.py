"""Aggregate: reads tasks, samples, evaluations, log-probs, selections and rollouts; writes the tables and figures.

Written to the results folder: table1.csv (strategies), table2.csv (Best-of-N scaling), table3.csv (task by strategy),
table5.csv (training by step), table8.csv (best sample of each task), figure3 (scaling) and figure4 (strategies), each
as .png and .svg.
"""
