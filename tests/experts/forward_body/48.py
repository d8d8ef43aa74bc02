def forward(self, x):
    """No headroom: x is read once and the sum over rows is vectorised, at the roofline of memory."""
    return x.mean(self.dim)
