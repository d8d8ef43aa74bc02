"""Stage fetch_policy: makes the folder of a policy (weights, tokenizer, chat template, provenance) from its source."""
