def forward(self, x):
    """Two stages: amax of 32 rows at a time is vectorised, as argmax is not; then only the first group with the maximum
    is gathered and searched for its first row. Ties fall to the first in both stages. On a GPU argmax reads x once
    already.
    """
    n, size, rest = x.shape
    rows = 32
    if self.dim != 1 or size % rows:
        return x.argmax(self.dim)
    x = x.view(n, size // rows, rows, rest)
    group = x.amax(2).max(1, keepdim=True)[1]
    found = x.gather(1, group.unsqueeze(2).expand(n, 1, rows, rest)).squeeze(1)
    return group.squeeze(1).mul_(rows).add_(found.max(1)[1])
