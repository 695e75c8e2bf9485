"""The same dual encoder in PyTorch, put together as open_clip and timm do: the yardstick of speed.

Only for measuring: nothing else in the package imports torch.
"""

import torch
from torch import nn

from jest_tf.models.dual_encoder import DualEncoderConfig, TowerConfig


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, tower: TowerConfig) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(tower.width, eps=1e-6)
        self.attention = nn.MultiheadAttention(tower.width, tower.heads, batch_first=True)
        self.norm_mlp = nn.LayerNorm(tower.width, eps=1e-6)
        self.mlp = _mlp(tower)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm_attention(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.norm_mlp(x))


class ImageTower(nn.Module):
    """ViT without class token, pooled by attention."""

    def __init__(self, config: DualEncoderConfig) -> None:
        super().__init__()
        tower, patch = config.image, config.patch_size
        n_tokens = (config.image_size // patch) ** 2
        self.patches = nn.Conv2d(3, tower.width, patch, patch)
        self.positions = nn.Parameter(torch.randn(n_tokens, tower.width) * tower.width**-0.5)
        self.blocks = nn.Sequential(*(Block(tower) for _ in range(tower.depth)))
        self.norm = nn.LayerNorm(tower.width, eps=1e-6)
        self.probe = nn.Parameter(torch.randn(1, 1, tower.width) * tower.width**-0.5)
        self.pooling = nn.MultiheadAttention(tower.width, tower.heads, batch_first=True)
        self.pooled_norm = nn.LayerNorm(tower.width, eps=1e-6)
        self.pooled_mlp = _mlp(tower)
        same = tower.width == config.embed_dim
        self.projection = nn.Identity() if same else nn.Linear(tower.width, config.embed_dim)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = self.patches(images).flatten(2).transpose(1, 2) + self.positions
        x = self.norm(self.blocks(x))
        query = self.probe.expand(x.shape[0], -1, -1)
        x = self.pooling(query, x, x, need_weights=False)[0][:, 0]
        return self.projection(x + self.pooled_mlp(self.pooled_norm(x)))


class TextTower(nn.Module):
    """Bidirectional transformer, pooled at its last token."""

    def __init__(self, config: DualEncoderConfig) -> None:
        super().__init__()
        tower = config.text
        self.tokens = nn.Embedding(config.vocab_size, tower.width)
        self.positions = nn.Parameter(torch.randn(config.n_tokens, tower.width) * tower.width**-0.5)
        self.blocks = nn.Sequential(*(Block(tower) for _ in range(tower.depth)))
        self.norm = nn.LayerNorm(tower.width, eps=1e-6)
        self.projection = nn.Linear(tower.width, config.embed_dim)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.blocks(self.tokens(tokens) + self.positions)
        return self.projection(self.norm(x)[:, -1])


class TrainStep:
    """A plain SigLIP training step: both towers, loss, clipping, AdamW."""

    def __init__(self, config: DualEncoderConfig, n_examples: int) -> None:
        self.image, self.text = ImageTower(config), TextTower(config)
        self.log_scale = nn.Parameter(torch.tensor(config.init_scale).log())
        self.bias = nn.Parameter(torch.tensor(config.init_bias))
        self.parameters = [
            *self.image.parameters(), *self.text.parameters(), self.log_scale, self.bias
        ]  # fmt: skip
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=1e-3, betas=(0.9, 0.95), weight_decay=1e-4, fused=True
        )
        size = config.image_size
        self.images = torch.rand(n_examples, 3, size, size) * 2 - 1
        self.tokens = torch.randint(config.vocab_size, (n_examples, config.n_tokens))

    def __call__(self) -> float:
        """One step; returns the loss."""
        zimg = nn.functional.normalize(self.image(self.images), dim=-1)
        ztxt = nn.functional.normalize(self.text(self.tokens), dim=-1)
        logits = self.log_scale.exp() * zimg @ ztxt.T + self.bias
        sign = 2 * torch.eye(len(logits)) - 1
        loss = -nn.functional.logsigmoid(sign * logits).sum() / len(logits)
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        return loss.item()


def _mlp(tower: TowerConfig) -> nn.Module:
    return nn.Sequential(
        nn.Linear(tower.width, tower.mlp_dim),
        nn.GELU(approximate="tanh"),
        nn.Linear(tower.mlp_dim, tower.width),
    )
