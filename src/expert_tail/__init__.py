"""Expert Tail: sampling, selection or gradient adaptation for execution-grounded code generation.

One folder a stage of the workflow (`fetch_policy`, `rlvr_train`, `sample_k64`, `compile_and_time`, `score_logprobs`,
`select`, `aggregate`, `null_audit`) over shared ground: `tasks` (what is to be made fast), `policy` (the language
model: prompts, actions, sampling, log-probabilities) and `evaluator` (verdict and timing).
"""

__version__ = "0.1.0"
