"""Stage `nll_probe`: the surprisal of a fixed set of Best-of-N samples under one checkpoint of an adaptation run.

Reads the tasks, the policy, the checkpoint and a `samples` artifact; writes one `probes` artifact.
"""
