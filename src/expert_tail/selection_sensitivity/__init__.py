"""Stage `selection_sensitivity`: does what is said of the selection strategies hold under other choices?

Reads evaluations, log-probs under the sampling checkpoint and under the untrained policy, and probes of adapted checkpoints.
Written to the results folder: selection_sensitivity.csv (one row a choice and strategy) and figure_selection_sensitivity as
.png and .svg.
"""
