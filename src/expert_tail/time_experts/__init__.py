"""Stage `time_experts`: what the project's own expert solutions reach on the tasks of a split, and what that says of them.

Reads the tasks and the folder of experts, which no policy ever sees; writes one `headroom` artifact.
"""
