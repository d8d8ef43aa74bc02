"""Stage `sample_k64`: K samples of every task of a subset under one seed.

Reads the tasks, the policy and a checkpoint; writes one `samples` artifact with both log-prob conventions.
"""
