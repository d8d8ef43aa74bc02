"""Ends its process without a word when it is imported.
task: 19
verdict: crash
"""

import os

os._exit(0)
