def forward(self, x):
    """No headroom: one pass, a read and a write for each element, at the roofline of memory."""
    return x.relu()
