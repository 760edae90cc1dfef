"""Prompt weights on token embeddings: what compel makes of "(a red car)1.2", by positions instead of markup.

compel (2.1.1) moves the embedding of each weighted token away from that of an empty text: z' = empty + w (z - empty).
The released code writes the weights into the prompt and has it parsed again; a phrase that occurs twice, or inside
another, parentheses and quotes then mean something else than they should. Positions cannot be misread.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from elbo_core.diffusion.denoiser import Conditioning


def weigh(text: Conditioning, empty: Conditioning, weights: Tensor) -> Conditioning:
    """B texts with their tokens weighted by `weights` [B, L]; empty: an empty text. The pooled vector stays.

    Raises:
        ValueError: a weight is below one, for which compel does something else, or is no number.
    """
    if not (weights >= 1).all() or not weights.isfinite().all():
        raise ValueError(f"prompt weights must be numbers from 1 on, got {weights.min().item():g} as the least")
    weights = weights.to(text.embeddings)[..., None]
    return replace(text, embeddings=empty.embeddings + weights * (text.embeddings - empty.embeddings))


def token_weights(weights: Tensor, picture: Tensor, mask: Tensor, count: int) -> Tensor:
    """The weights [B, L] of all tokens of B prompts, from those of M phrases, float [M]: picture [M] says which prompt
    each belongs to, mask [M, L] which tokens. All other tokens have the weight 1."""
    more = torch.zeros(count, mask.shape[1], dtype=weights.dtype, device=weights.device)
    return 1 + more.index_add(0, picture.to(weights.device), (weights[:, None] - 1) * mask.to(weights))
