"""Shared ground of the stages that update a policy: reward, the optimiser step, and finished steps on disk."""
