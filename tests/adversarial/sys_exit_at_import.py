"""Calls sys.exit when it is imported.
task: 19
verdict: compile_error
"""

import sys

sys.exit(0)
