def forward(self, x):
    """No headroom found: convolutions for each of the 8 output phases, one product for all 27 taps, and channels last
    are all slower or equal.
    """
    return self.conv_transpose3d(x)
