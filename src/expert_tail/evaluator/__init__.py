"""Verdict and timing of candidates that may cheat, crash or attack.

How: a candidate runs in a single-use process that is confined by every layer the machine offers (`sandbox`) and frozen
except while it owes an answer (`process`). The parent writes fresh inputs into the frozen process, starts its own clock,
lets it run, freezes it at the answer and reads the outputs from its memory (`arm`). The baseline is a process made the
same way, run in turn on the same inputs (`bench`). The verdict is the parent's (`correctness`, `timing`, `evaluator`).

What is not stopped: a candidate can save the worker's own Python overhead, some ten microseconds a call, by speaking the
protocol itself. One that is wrong on a share p of its calls is seen with probability 1 - (1 - p)^n in its n calls, all of
which are checked. NaN and infinity among the inputs are not tried. Without Landlock and seccomp (`evaluator.sandbox: off`)
a candidate can read other processes' memory, start processes, write files and use the network. A fault of the kernel, of
CPython or of PyTorch may let a process out. The `paper` protocol repeats one input, so a cache by value passes in it.
The interval covers noise between calls, not lasting differences between two processes. docs/trust.md has the evidence.
"""
