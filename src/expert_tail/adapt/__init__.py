"""Stage `adapt`: one adaptation run, a policy changed at test time on the very tasks it is judged by.

Reads the tasks, the policy and the checkpoint to start from; writes one folder `step={n}` for each checkpoint of the
trajectory: its adapter, its rollouts, their evaluations, and an account of what they cost. Finished steps are kept beside
the outputs, so that a killed run goes on after its last one.
"""
