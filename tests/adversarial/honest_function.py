"""Makes its model by a function.
task: 19
verdict: correct
"""

import torch.nn as nn


def ModelNew():
    return nn.ReLU()
