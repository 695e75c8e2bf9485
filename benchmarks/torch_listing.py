"""`dense_listing` in PyTorch, which nothing else needs: `pip install torch==2.13.0`."""

import numpy as np


def torch_listing(spec, learner, reference, seed: int):
    """Positions [b] by learnability; `learner`, `reference`: (zimg, ztxt, scale, bias) in numpy."""
    import torch

    with torch.inference_mode():
        generator = torch.Generator().manual_seed(seed)
        z = [
            float(scale) * torch.from_numpy(zimg) @ torch.from_numpy(ztxt).T + float(bias)
            for zimg, ztxt, scale, bias in (learner, reference)
        ]
        logits, first = (_sigmoid if spec.loss == "sigmoid" else _softmax)(*z)
        sampled, chunks = torch.zeros(spec.super_batch), []
        for chunk in range(spec.n_chunks):
            noise = -torch.log(-torch.log(torch.rand(spec.super_batch, generator=generator)))
            chunk_logits = first if chunk == 0 else logits(sampled)
            chunks.append((chunk_logits + noise - 1e8 * sampled).topk(spec.chunk_size).indices)
            sampled[chunks[-1]] = 1.0
        return np.concatenate([chunk.numpy() for chunk in chunks])


def _sigmoid(learner, reference):
    import torch

    for z in (learner, reference):
        z.diagonal().neg_()  # nll_ii = softplus(-z_ii)
    s = torch.nn.functional.softplus(learner).sub_(torch.nn.functional.softplus(reference))
    own = s.diagonal().clone()
    return lambda sampled: own + s @ sampled + s.T @ sampled, own


def _softmax(learner, reference):
    models = []
    for sign, z in ((1, learner), (-1, reference)):
        own, peak = z.diagonal().clone(), z.max()
        models.append((sign, own, peak, z.sub_(peak).exp_()))

    def logits(sampled):
        total = 0.0
        for sign, own, peak, e in models:
            itself = (1 - sampled) * (own - peak).exp()
            row, column = ((side @ sampled + itself).log() for side in (e, e.T))
            total = total + sign * (peak + 0.5 * (row + column) - own)
        return total

    return logits, models[1][1] - models[0][1]
