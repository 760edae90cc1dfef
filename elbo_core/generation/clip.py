"""The CLIP score of Table V: how well a picture fits its prompt, by a model that has seen many pairs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from elbo_core.diffusion.registry import locate


class ClipScore:
    """100 times the cosine of picture and whole prompt, as the released code has it (`evaluate_generation.py:39-58`),
    whose template takes ViT-B/32."""

    def __init__(self, model, tokenizer, processor):
        self.model, self.tokenizer, self.processor = model.eval(), tokenizer, processor

    @classmethod
    def load(cls, name: str, device: str | torch.device = "cpu") -> ClipScore:
        """A CLIP of the embedded world, of the registry, a folder or a hub id.

        Raises:
            FileNotFoundError, OSError: it cannot be found or read.
        """
        from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer  # seconds: not where scores are read

        place, revision = locate(name)
        parts = [part.from_pretrained(place, revision=revision) for part in (CLIPModel, CLIPTokenizer)]
        processor = CLIPImageProcessorPil.from_pretrained(place, revision=revision)
        return cls(parts[0].float().to(device), parts[1], processor)

    @staticmethod
    def check(name: str) -> None:
        """Whether a CLIP is there; of a hub's, at most the configuration is downloaded.

        Raises:
            FileNotFoundError, ModelAccessError, OSError: it cannot be found or read.
        """
        from transformers import CLIPConfig

        place, revision = locate(name)
        CLIPConfig.from_pretrained(place, revision=revision)

    @torch.no_grad()
    def __call__(self, pictures: np.ndarray, prompts: Sequence[str], batch: int = 64) -> Tensor:
        """Scores [B] of pictures uint8 [B, H, W, 3] and their prompts, which are cut to what the model reads."""
        starts = range(0, len(prompts), batch)
        parts = [self._score(pictures[k : k + batch], prompts[k : k + batch]) for k in starts]
        return torch.cat(parts) if parts else torch.empty(0)

    def _score(self, pictures: np.ndarray, prompts: Sequence[str]) -> Tensor:
        device = self.model.device
        pixels = self.processor([Image.fromarray(picture) for picture in pictures], return_tensors="pt").to(device)
        tokens = self.tokenizer(list(prompts), padding=True, truncation=True, return_tensors="pt").to(device)
        output = self.model(**tokens, **pixels)
        return 100 * (output.image_embeds * output.text_embeds).sum(dim=-1).cpu()
