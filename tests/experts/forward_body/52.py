def forward(self, x):
    """Two stages: amin of 32 rows at a time is vectorised, as argmin is not; then only the first group with the minimum
    is gathered and searched for its first row. Ties fall to the first in both stages. On a GPU argmin reads x once
    already.
    """
    n, size, rest = x.shape
    rows = 32
    if self.dim != 1 or size % rows:
        return x.argmin(self.dim)
    x = x.view(n, size // rows, rows, rest)
    group = x.amin(2).min(1, keepdim=True)[1]
    found = x.gather(1, group.unsqueeze(2).expand(n, 1, rows, rest)).squeeze(1)
    return group.squeeze(1).mul_(rows).add_(found.min(1)[1])
