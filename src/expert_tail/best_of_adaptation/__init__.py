"""Stage `best_of_adaptation`: which checkpoint of an adaptation run to deploy.

Reads the evaluations of a run's steps; writes the adapter of the chosen one.
"""
