"""Stage `budget_curve`: rank a task's samples before any is evaluated, evaluate the first m, deploy the fastest of them.

Reads evaluations and log-probs of all compared subsets and seeds. Written to the results folder: budget_curve.csv (one row
a set of tasks or task, ranking and m) and figure_budget_curve as .png and .svg.
"""
