"""SAM's automatic masks (Kirillov et al. 2023) through transformers' pipeline.

The pipeline's last step, which drops masks of nearly the same box, is written here: the library's would need
torchvision. Imported only where SAM is used, as it loads transformers.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import MaskGenerationPipeline, SamModel, SamProcessor

from elbo_core.diffusion.folder import fetched_folder
from elbo_core.diffusion.registry import locate
from elbo_core.errors import ModelAccessError


class MaskGenerator(MaskGenerationPipeline):
    """The pipeline of the task "mask-generation", which answers with bool masks [P, H, W]; P may be 0."""

    def postprocess(self, model_outputs: Sequence[Mapping], crops_nms_thresh: float = 0.7, **_: object) -> Tensor:
        scores, boxes = (torch.cat([output[kind] for output in model_outputs]) for kind in ("iou_scores", "boxes"))
        masks = [mask for output in model_outputs for mask in output["masks"]]
        kept = [decoded(masks[index]) for index in distinct(boxes.float(), scores, crops_nms_thresh)]
        return torch.stack(kept) if kept else torch.zeros(0, 1, 1, dtype=torch.bool)


def decoded(runs: Mapping) -> Tensor:
    """A mask, bool [H, W], from the lengths of its runs down the columns, the first of zeros."""
    height, width = runs["size"]
    values = np.arange(len(runs["counts"])) % 2 == 1
    return torch.from_numpy(np.repeat(values, runs["counts"]).reshape(width, height).T.copy())


def distinct(boxes: Tensor, scores: Tensor, threshold: float) -> list[int]:
    """The boxes [P, 4] (left, top, right, bottom) that overlap no better one with an IoU above the threshold, from the
    best score on (non-maximum suppression)."""
    kept: list[int] = []
    for index in scores.argsort(descending=True, stable=True).tolist():
        if not kept or overlaps(boxes[index], boxes[kept]).max() <= threshold:
            kept.append(index)
    return kept


def overlaps(box: Tensor, others: Tensor) -> Tensor:
    """The IoU of a box [4] with others [P, 4]; 0 where both are empty."""
    low, high = torch.maximum(box[:2], others[:, :2]), torch.minimum(box[2:], others[:, 2:])
    shared = (high - low).clamp(min=0).prod(dim=1)
    areas = (others[:, 2:] - others[:, :2]).prod(dim=1) + (box[2:] - box[:2]).prod() - shared
    return shared / areas.clamp(min=1e-9)


def generator(model: SamModel, processor: SamProcessor, **options: float) -> MaskGenerator:
    """The mask generator of a loaded SAM. options: of the pipeline, the library's defaults if there are none."""
    return MaskGenerator(model=model, image_processor=processor.image_processor, device=model.device, **options)


@functools.lru_cache(maxsize=1)
def load_sam(name: str) -> MaskGenerator:
    """The mask generator of a SAM checkpoint: an alias, a folder or a hub id.

    Raises:
        ModelAccessError: it cannot be read or downloaded.
    """
    folder, device = fetched_folder(*locate(name)), "cuda" if torch.cuda.is_available() else "cpu"
    try:
        model, processor = SamModel.from_pretrained(folder, use_safetensors=True), SamProcessor.from_pretrained(folder)
    except (OSError, ValueError) as error:
        raise ModelAccessError(f"{folder} holds no SAM in safetensors: {error}") from error
    return generator(model.eval().to(device), processor)


def masks_of(pipeline: MaskGenerator, image: Tensor) -> Tensor:
    """What SAM finds in a picture [3, H, W] in [0, 1]: bool [P, H, W]."""
    picture = Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())
    masks = pipeline(picture)
    return masks if len(masks) else torch.zeros(0, *image.shape[1:], dtype=torch.bool)
