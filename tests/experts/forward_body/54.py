def forward(self, x):
    """No headroom found: channels last, and a matrix product with the windows copied out, both cost what they save."""
    return self.conv3d(x)
