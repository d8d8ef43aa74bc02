"""Select: reads evaluations and log-probs of one subset and seed, writes what each strategy picks (`selections`)."""
