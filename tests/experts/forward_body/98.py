import torch
import torch.nn.functional as F


def forward(self, predictions, targets):
    """sum t (log t - log p) = t . log(t / p): one logarithm instead of two, and the product is summed as it is made. A
    zero among the targets, or a quotient beyond float32, gives no finite sum: then the reference's own expression
    decides.
    """
    loss = torch.dot(targets.flatten(), torch.div(targets, predictions).log_().flatten()) / predictions.shape[0]
    if loss.isfinite():
        return loss
    return F.kl_div(torch.log(predictions), targets, reduction="batchmean")
