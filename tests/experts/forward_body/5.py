def forward(self, A, s):
    """No headroom: A is read once and the product is written once, already at the roofline of memory."""
    return A * s
