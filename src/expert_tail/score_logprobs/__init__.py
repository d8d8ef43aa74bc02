"""Stage `score_logprobs`: the surprisal of every sample at temperature 1 under a named scorer checkpoint.

Reads the tasks, the policy, a checkpoint and a `samples` artifact; writes one `logprobs` artifact.
"""
