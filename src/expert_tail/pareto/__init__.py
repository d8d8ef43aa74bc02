"""Stage `pareto`: what each way to spend test-time compute reaches, against what it costs, and which none other beats.

Reads samples, evaluations and log-probs of all compared subsets and seeds, and the adaptation runs. Written to the results
folder: pareto.csv (one row a set of tasks and method) and figure_pareto as .png and .svg.
"""
