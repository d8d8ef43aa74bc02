"""Stage `compile_and_time`: a verdict and a timing for every sample; each distinct candidate is measured once.

Reads the tasks and a `samples` artifact; writes one `evaluations` artifact, or one of the shards of it.
"""
