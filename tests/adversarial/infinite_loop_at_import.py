"""Loops for ever when it is imported.
task: 19
verdict: timeout
"""

while True:
    pass
