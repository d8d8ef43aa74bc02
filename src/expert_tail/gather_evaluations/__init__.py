"""Stage `gather_evaluations`: the shards of an evaluation as one `evaluations` artifact, as if it had been one job.

Reads a `samples` artifact and the `evaluations` of its shards.
"""
