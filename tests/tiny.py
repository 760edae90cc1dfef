"""Small random pipelines of every supported class, built from real components."""

from __future__ import annotations

import string

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    DiffusionPipeline,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    PixArtAlphaPipeline,
    PixArtSigmaPipeline,
    PixArtTransformer2DModel,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import nn
from transformers import (
    BertConfig,
    BertTokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    GroundingDinoImageProcessor,
    GroundingDinoProcessor,
    SamConfig,
    SamImageProcessor,
    SamMaskDecoderConfig,
    SamModel,
    SamProcessor,
    SamPromptEncoderConfig,
    SamVisionConfig,
    SwinConfig,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from elbo_core.training.siblings import build_scheduler
from elbo_core.training.text import build_tokenizer


def clip_config(width: int = 16, projection: int = 16) -> CLIPTextConfig:
    tokenizer = build_tokenizer()
    special = {key: getattr(tokenizer, key) for key in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=77, projection_dim=projection, **special,
    )  # fmt: skip


def t5_tokenizer() -> T5Tokenizer:
    """Whole words with their space, and letters for all else."""
    words = ["a", "photo", "of", "star", "tree", "grass", "moon", "hot", "dog", "traffic", "light", "red"]
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0)]
    pieces += [(f"▁{word}", -3.0) for word in words] + [(letter, -6.0) for letter in string.ascii_lowercase + ","]
    return T5Tokenizer(vocab=pieces, extra_ids=0)


def t5(width: int = 16) -> T5EncoderModel:
    config = T5Config(
        vocab_size=len(t5_tokenizer()), d_model=width, d_kv=8, d_ff=32, num_layers=2, num_heads=2,
        feed_forward_proj="gated-gelu",
    )  # fmt: skip
    return T5EncoderModel(config).eval()


def vae(channels: int = 4, **options) -> AutoencoderKL:
    """Pictures of 32 pixels, latents of side 8."""
    return AutoencoderKL(
        sample_size=32, block_out_channels=(8, 8, 8), norm_num_groups=4, latent_channels=channels,
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3, **options,
    )  # fmt: skip


def unet(cross_attention_dim: int = 16, **options) -> UNet2DConditionModel:
    """Sides 8 | 4 | 2 | 4 | 8 and several layers of each."""
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32, 32), layers_per_block=2, attention_head_dim=2, norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=cross_attention_dim, **options,
    )  # fmt: skip


def sharpen(network: nn.Module) -> nn.Module:
    """Random attention is nearly flat; sharpened, errors show."""
    for name, module in network.named_modules():
        if name.endswith(("to_q", "add_q_proj")):
            module.weight.data.mul_(8)
    return network.eval()


def stable_diffusion(prediction_type: str = "epsilon") -> StableDiffusionPipeline:
    torch.manual_seed(0)
    scheduler = build_scheduler()
    scheduler.register_to_config(prediction_type=prediction_type)
    return StableDiffusionPipeline(
        vae=vae(), text_encoder=CLIPTextModel(clip_config()).eval(), tokenizer=build_tokenizer(), unet=sharpen(unet()),
        scheduler=scheduler, safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def stable_diffusion_xl() -> StableDiffusionXLPipeline:
    """As the original: no attention at the finest side, many layers below, two encoders of different width."""
    torch.manual_seed(0)
    network = UNet2DConditionModel(
        sample_size=8, block_out_channels=(16, 32), layers_per_block=2, attention_head_dim=(2, 4), norm_num_groups=8,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D"), transformer_layers_per_block=(1, 2),
        cross_attention_dim=40, use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=24 + 6 * 8,
    )  # fmt: skip
    return StableDiffusionXLPipeline(
        vae=vae(), unet=sharpen(network), scheduler=build_scheduler(), tokenizer=build_tokenizer(),
        text_encoder=CLIPTextModel(clip_config(16)).eval(), tokenizer_2=build_tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(clip_config(24, 24)).eval(),
    )  # fmt: skip


def stable_diffusion_3(shift: float = 3.0, dual: bool = True, with_t5: bool = True) -> StableDiffusion3Pipeline:
    """As 3.5: query-key norms and, in the first blocks, a second attention that sees the image alone."""
    torch.manual_seed(0)
    network = SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=16, num_layers=3, attention_head_dim=8, num_attention_heads=2,
        joint_attention_dim=40, caption_projection_dim=16, pooled_projection_dim=40, out_channels=16,
        pos_embed_max_size=8, dual_attention_layers=(0, 1) if dual else (), qk_norm="rms_norm" if dual else None,
    )  # fmt: skip
    return StableDiffusion3Pipeline(
        transformer=sharpen(network), scheduler=FlowMatchEulerDiscreteScheduler(shift=shift),
        vae=vae(16, shift_factor=0.06, use_quant_conv=False, use_post_quant_conv=False),
        text_encoder=CLIPTextModelWithProjection(clip_config(16)).eval(), tokenizer=build_tokenizer(),
        text_encoder_2=CLIPTextModelWithProjection(clip_config(24, 24)).eval(), tokenizer_2=build_tokenizer(),
        text_encoder_3=t5(40) if with_t5 else None, tokenizer_3=t5_tokenizer(),
    )  # fmt: skip


def flux(guidance: bool = True) -> FluxPipeline:
    torch.manual_seed(0)
    network = FluxTransformer2DModel(
        patch_size=1, in_channels=16, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=16, pooled_projection_dim=16, axes_dims_rope=(4, 4, 8), guidance_embeds=guidance,
    )  # fmt: skip
    return FluxPipeline(
        transformer=sharpen(network), vae=vae(4, shift_factor=0.1, use_quant_conv=False, use_post_quant_conv=False),
        scheduler=FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True),
        text_encoder=CLIPTextModel(clip_config()).eval(), tokenizer=build_tokenizer(),
        text_encoder_2=t5(), tokenizer_2=t5_tokenizer(),
    )  # fmt: skip


def _pixart(pipeline: type[DiffusionPipeline], **options) -> DiffusionPipeline:
    torch.manual_seed(0)
    network = PixArtTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=8, num_layers=2, attention_head_dim=12,
        num_attention_heads=2, cross_attention_dim=24, caption_channels=16, **options,
    )  # fmt: skip
    scheduler = DDIMScheduler(beta_schedule="linear", beta_start=0.0001, beta_end=0.02)
    return pipeline(
        transformer=sharpen(network), vae=vae(), scheduler=scheduler, text_encoder=t5(), tokenizer=t5_tokenizer()
    )


def pixart_alpha(use_additional_conditions: bool = False) -> PixArtAlphaPipeline:
    return _pixart(PixArtAlphaPipeline, use_additional_conditions=use_additional_conditions)


def pixart_sigma() -> PixArtSigmaPipeline:
    return _pixart(PixArtSigmaPipeline)


PIPELINES = {
    "sd": stable_diffusion,
    "sd-v": lambda: stable_diffusion("v_prediction"),
    "sdxl": stable_diffusion_xl,
    "sd3": lambda: stable_diffusion_3(dual=False),
    "sd35": stable_diffusion_3,
    "sd35-without-t5": lambda: stable_diffusion_3(with_t5=False),
    "flux": flux,
    "flux-schnell": lambda: flux(guidance=False),
    "pixart-alpha": pixart_alpha,
    "pixart-sigma": pixart_sigma,
}


def grounding_dino() -> tuple[GroundingDinoForObjectDetection, GroundingDinoProcessor]:
    """A detector of one box at most; its words are letters."""
    backbone = SwinConfig(
        image_size=128, embed_dim=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1), window_size=2,
        out_features=["stage2", "stage3", "stage4"],
    )  # fmt: skip
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", ".", "?", *string.ascii_lowercase]
    vocabulary += [f"##{letter}" for letter in string.ascii_lowercase]
    tokenizer = BertTokenizer(vocab={piece: k for k, piece in enumerate(vocabulary)})
    text = BertConfig(
        vocab_size=len(vocabulary), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    config = GroundingDinoConfig(
        backbone_config=backbone, text_config=text, d_model=32, num_queries=4, encoder_layers=1, decoder_layers=2,
        encoder_ffn_dim=16, decoder_ffn_dim=16, encoder_attention_heads=2, decoder_attention_heads=2,
        disable_custom_kernels=True,
    )  # fmt: skip
    images = GroundingDinoImageProcessor(size={"shortest_edge": 128, "longest_edge": 192})
    return GroundingDinoForObjectDetection(config).eval(), GroundingDinoProcessor(images, tokenizer)


def sam() -> tuple[SamModel, SamProcessor]:
    """A segmenter of pictures of 64 pixels."""
    vision = SamVisionConfig(
        hidden_size=16, output_channels=16, num_hidden_layers=1, num_attention_heads=2, image_size=64, patch_size=8,
        window_size=2, global_attn_indexes=[0], num_pos_feats=8, mlp_dim=16,
    )  # fmt: skip
    prompts = SamPromptEncoderConfig(hidden_size=16, image_size=64, patch_size=8, mask_input_channels=4)
    masks = SamMaskDecoderConfig(
        hidden_size=16, mlp_dim=16, num_hidden_layers=1, num_attention_heads=2, iou_head_hidden_dim=16
    )
    config = SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=masks)
    images = SamImageProcessor(size={"longest_edge": 64}, pad_size={"height": 64, "width": 64})
    return SamModel(config).eval(), SamProcessor(images)
