"""Honest: captures its work once for each place where inputs lie, and replays it.
task: 12
verdict: correct, faster
"""

import torch
import torch.nn as nn


class ModelNew(nn.Module):
    def __init__(self):
        super().__init__()
        self.graphs = {}

    def forward(self, A, B):
        key = (A.data_ptr(), B.data_ptr())
        if key not in self.graphs:
            graph = torch.cuda.CUDAGraph()
            torch.cuda.synchronize()
            with torch.cuda.graph(graph):
                out = A.unsqueeze(1) * B
            self.graphs[key] = graph, out
        graph, out = self.graphs[key]
        graph.replay()
        return out.clone()
