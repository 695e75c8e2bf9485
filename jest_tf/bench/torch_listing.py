"""The same listing in PyTorch, which nothing else needs: `pip install torch==2.13.0`."""

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
        if spec.loss == "sigmoid":
            for model in z:
                model.diagonal().neg_()  # nll_ii = softplus(-z_ii)
            scores = torch.nn.functional.softplus(z[0]) - torch.nn.functional.softplus(z[1])
            first = scores.diagonal()
        else:
            first = z[1].diagonal() - z[0].diagonal()

        def logits(sampled):
            if spec.loss == "sigmoid":
                return first + (scores * sampled[:, None]).sum(0) + (scores * sampled).sum(1)
            total = 0.0
            for sign, model in zip((1, -1), z, strict=True):
                member = sampled.bool().expand_as(model).clone().fill_diagonal_(True)
                rows = model.masked_fill(~member, -torch.inf).logsumexp(1)
                columns = model.masked_fill(~member.T, -torch.inf).logsumexp(0)
                total = total + sign * (0.5 * (rows + columns) - model.diagonal())
            return total

        sampled, chunks = torch.zeros(spec.super_batch), []
        for chunk in range(spec.n_chunks):
            noise = -torch.log(-torch.log(torch.rand(spec.super_batch, generator=generator)))
            chunk_logits = first if chunk == 0 else logits(sampled)
            chunks.append((chunk_logits + noise - 1e8 * sampled).topk(spec.chunk_size).indices)
            sampled[chunks[-1]] = 1.0
        return np.concatenate([chunk.numpy() for chunk in chunks])
