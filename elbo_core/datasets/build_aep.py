"""Build a set like AEP: captions by DVMP's rules, pictures by FLUX, label maps by Grounding DINO and SAM.

    python -m elbo_core.datasets.build_aep --count 1000

Every picture is finished or not there at all; started again, the command goes on where it stopped. A picture in which a
thing of its caption is not found is rejected and listed, as the authors kept 741 of their 1000.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from PIL import Image
from tqdm.auto import tqdm
from transformers import GroundingDinoForObjectDetection, GroundingDinoProcessor, SamModel, SamProcessor

from elbo_core.datasets.__main__ import count, folder
from elbo_core.datasets.aep import write_phrases
from elbo_core.datasets.folders import LAYOUTS, default_root
from elbo_core.datasets.names import class_names
from elbo_core.datasets.prompts import SEED, Prompt, prompt_set
from elbo_core.diffusion.folder import fetched_folder
from elbo_core.diffusion.models import load
from elbo_core.diffusion.registry import locate
from elbo_core.paths import replace_file, whole_file

BOX_THRESHOLD, TEXT_THRESHOLD = 0.35, 0.25
"""Grounded SAM's own defaults; the authors' are not known."""
GUIDANCE, STEPS = 3.5, 28


@dataclass(frozen=True)
class Annotator:
    """Grounded SAM: a detector that finds boxes by words, and a segmenter that turns boxes into masks."""

    detector: GroundingDinoForObjectDetection
    detector_processor: GroundingDinoProcessor
    segmenter: SamModel
    segmenter_processor: SamProcessor

    @classmethod
    def load(cls, detector: str = "grounding-dino", segmenter: str = "sam", device: str | None = None) -> Annotator:
        """From aliases, local folders or hub ids."""
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        boxes, masks = fetched_folder(*locate(detector)), fetched_folder(*locate(segmenter))
        return cls(
            GroundingDinoForObjectDetection.from_pretrained(boxes, use_safetensors=True).to(device),
            GroundingDinoProcessor.from_pretrained(boxes),
            SamModel.from_pretrained(masks, use_safetensors=True).to(device),
            SamProcessor.from_pretrained(masks),
        )

    @torch.no_grad()
    def boxes(self, image: Image.Image, name: str) -> tuple[torch.Tensor, torch.Tensor]:
        """Boxes [n, 4] in pixels (left, top, right, bottom) of all things of a class, and their scores [n]."""
        inputs = self.detector_processor(images=image, text=f"{name}.", return_tensors="pt").to(self.detector.device)
        found = self.detector_processor.post_process_grounded_object_detection(
            self.detector(**inputs), inputs.input_ids, BOX_THRESHOLD, TEXT_THRESHOLD, [image.size[::-1]]
        )[0]
        return found["boxes"].cpu(), found["scores"].cpu()

    @torch.no_grad()
    def masks(self, image: Image.Image, boxes: torch.Tensor) -> torch.Tensor:
        """The mask of the thing in each of n > 0 boxes, bool [n, H, W]."""
        inputs = self.segmenter_processor(image, input_boxes=[boxes.tolist()], return_tensors="pt")
        output = self.segmenter(**inputs.to(self.segmenter.device), multimask_output=False)
        sizes = inputs["original_sizes"].cpu(), inputs["reshaped_input_sizes"].cpu()
        return self.segmenter_processor.image_processor.post_process_masks(output.pred_masks.cpu(), *sizes)[0][:, 0]

    def annotate(self, image: Image.Image, labels: Mapping[str, int]) -> np.ndarray:
        """The label map, uint8 [H, W]: the class labels of what is found, 0 elsewhere."""
        things: list[tuple[int, float, np.ndarray]] = []
        for name, label in labels.items():
            boxes, scores = self.boxes(image, name)
            if len(boxes):
                things += zip([label] * len(boxes), scores.tolist(), self.masks(image, boxes).numpy(), strict=True)
        return paint(things, image.size[::-1])


def paint(things: Sequence[tuple[int, float, np.ndarray]], size: tuple[int, int]) -> np.ndarray:
    """One label map, uint8 of `size` (H, W), out of (label, score, mask [H, W]); the surest thing is on top."""
    label_map = np.zeros(size, np.uint8)
    for label, _, mask in sorted(things, key=lambda thing: thing[1]):
        label_map[mask] = label
    return label_map


def build(
    root: Path, prompts: Sequence[Prompt], pipeline: DiffusionPipeline, annotator: Annotator, seed: int = SEED,
    **options,
) -> dict[str, str]:  # fmt: skip
    """Make what is missing of `root`/aep; returns why pictures were rejected, by picture.

    options: for the pipeline (`height`, `num_inference_steps`, ...).
    """
    rejected_file = root / "aep" / "rejected.json"
    rejected = json.loads(rejected_file.read_text(encoding="utf-8")) if rejected_file.is_file() else {}
    phrases = {}
    for index, prompt in enumerate(tqdm(prompts, desc="AEP", disable=None)):
        name = f"generate_{index}"
        if name in rejected:
            continue
        if not _path(root, "masks", name).is_file():
            missing = _make(root, name, prompt, pipeline, annotator, seed + index, options)
            if missing:
                rejected[name] = f"{', '.join(missing)} not found for {prompt.text!r}"
                rejected_file.parent.mkdir(parents=True, exist_ok=True)
                replace_file(rejected_file, json.dumps(rejected, indent=1).encode())
                continue
        phrases[f"{name}.png"] = _subjects(prompt)
    (root / "aep").mkdir(parents=True, exist_ok=True)
    write_phrases(root / str(LAYOUTS["aep"].phrases), phrases)
    return rejected


def _make(
    root: Path, name: str, prompt: Prompt, pipeline: DiffusionPipeline, annotator: Annotator, seed: int, options: dict
) -> list[str]:
    """Generate and annotate one picture and, if all its things are found, save it; returns those that are not."""
    image = pipeline(prompt.text, generator=torch.Generator("cpu").manual_seed(seed), **options).images[0]
    labels = {subject: class_names("aep").index(subject) + 1 for subject in _subjects(prompt)}
    label_map = annotator.annotate(image, labels)
    missing = [subject for subject, label in labels.items() if not (label_map == label).any()]
    if not missing:
        for kind, picture in (("images", image), ("masks", Image.fromarray(label_map))):
            path = _path(root, kind, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            with whole_file(path) as partial:
                picture.save(partial, format="PNG")
    return missing


def _path(root: Path, kind: str, name: str) -> Path:
    return root / getattr(LAYOUTS["aep"], kind).format(id=name)


def _subjects(prompt: Prompt) -> dict[str, str]:
    """The classes of AEP that a prompt names, each with its noun phrase; of several phrases of a class the first."""
    known = [phrase for phrase in prompt.phrases if phrase.subject in class_names("aep")]
    return {phrase.subject: prompt.text[slice(*phrase.phrase)] for phrase in reversed(known)}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=folder, default=default_root(), help="the folder of the data sets")
    parser.add_argument("--count", type=count, help="so many prompts, all by default")
    parser.add_argument("--model", default="flux", help="what generates: an alias, a local folder or a hub id")
    parser.add_argument("--detector", default="grounding-dino")
    parser.add_argument("--segmenter", default="sam")
    parser.add_argument("--steps", type=count, default=STEPS)
    options = parser.parse_args(arguments)
    dtype = torch.bfloat16 if torch.cuda.is_available() else torch.float32
    pipeline = load(options.model, dtype=dtype).pipeline
    annotator = Annotator.load(options.detector, options.segmenter)
    prompts = prompt_set("dvmp", options.count, root=options.root)
    rejected = build(
        options.root, prompts, pipeline, annotator, num_inference_steps=options.steps, guidance_scale=GUIDANCE
    )
    print(f"{len(prompts) - len(rejected)} pictures in {options.root / 'aep'}, {len(rejected)} rejected")


if __name__ == "__main__":
    main()
