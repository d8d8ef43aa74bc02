"""Stage `adaptation_tables`: what adaptation did, step by step.

Reads the steps of adaptation runs, the probes of their checkpoints and the evaluations of the probed samples; writes
adaptation.csv (a run and step) and probes.csv (a run, step and set of samples).
"""
