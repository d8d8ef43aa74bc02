"""Stage `rlvr_train`: reinforcement learning with verifiable rewards over the training tasks.

Reads the tasks and the policy; writes LoRA checkpoints `step={n}` (after n optimiser steps) and one Parquet file of all
rollouts. Finished steps are kept beside the outputs, so that a killed run goes on after its last one.
"""
