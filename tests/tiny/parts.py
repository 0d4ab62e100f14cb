"""What the tiny pipelines share: seeded weights, and tokenizers made on the spot."""

import math
import string
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux2.system_messages import SYSTEM_MESSAGE
from PIL import Image
from torch import nn
from transformers import (
    ByT5Tokenizer,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    GemmaTokenizer,
    LlamaTokenizer,
    PreTrainedModel,
    Qwen2Tokenizer,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
    UMT5Config,
    UMT5EncoderModel,
)

# The prompt templates of diffusers' Qwen-Image pipelines: they drop their first 34 or 64 tokens, so our tokenizer has
# to spell them in as many tokens as the real one does, a token a word.
QWEN_TEMPLATE = (
    "system\nDescribe the image by detailing the color, shape, size, texture, quantity, text, spatial relationships of "
    "the objects and background:\nuser\nassistant\n"
)
QWEN_EDIT_TEMPLATE = (
    "system\nDescribe the key features of the input image (color, shape, size, texture, objects, background), then "
    "explain how the user's text instruction should alter or modify the image. Generate a new image that meets the "
    "user's requirements while maintaining consistency with the original input where appropriate.\nuser\nassistant\n"
)
WORDS = "a photo of red green blue yellow circle square triangle cat dog sign on the left right background and"
CORPUS = [WORDS, QWEN_TEMPLATE, QWEN_EDIT_TEMPLATE, SYSTEM_MESSAGE]
PICTURE = Image.linear_gradient("L").convert("RGB").resize((80, 48))
MASK = Image.linear_gradient("L").rotate(90).resize((80, 48)).point(lambda value: 255 * (value > 127))

# A short call with two branches of guidance, for 3 x 5 tokens: no layout divides them evenly.
GUIDED: dict[str, Any] = {
    "prompt": "a photo of a red circle on a blue background",
    "negative_prompt": "a green square",
    "guidance_scale": 2.0,
    "num_inference_steps": 2,
    "height": 48,
    "width": 80,
}


def randomize(module: nn.Module, seed: int) -> nn.Module:
    """Fill every parameter so that signals keep their size through any depth, and nothing is zero or one by accident.

    diffusers' initial weights leave modulations, biases and norm scales at zero or one, where a wrong shard is
    invisible.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            last = name.rsplit(".", 1)[-1]
            if last == "gamma" or (parameter.ndim == 1 and last == "weight"):
                parameter.copy_(1 + 0.1 * noise)
            elif parameter.ndim == 1:
                parameter.copy_(0.1 * noise)
            else:
                parameter.copy_(noise / math.sqrt(parameter[0].numel()))
    return module.eval()


def randomize_vae(vae: nn.Module, seed: int) -> nn.Module:
    """`randomize`, with half the contrast: it keeps pixels off black and white, where clipping hides an error, and
    one process in float32 within 1e-5 of float64, so that a comparison at 1e-5 judges the layout and not the VAE.
    """
    randomize(vae, seed)
    with torch.no_grad():
        for weight in vae.decoder.conv_out.parameters():
            weight.mul_(0.5 if weight.ndim > 1 else 1)
    return vae


def flow_scheduler(**changed: Any) -> FlowMatchEulerDiscreteScheduler:
    """A shift that depends on the number of tokens, as most pipelines have it."""
    return FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, "use_dynamic_shifting": True, **changed})


def autoencoder_kl(seed: int, levels: int = 4, **changed: Any) -> AutoencoderKL:
    """A picture becomes `latent_channels` of a 2 ** (levels - 1) times lower and narrower one."""
    sizes: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * levels,
        "up_block_types": ("UpDecoderBlock2D",) * levels,
        "block_out_channels": (8,) * (levels - 2) + (16, 16),
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 4,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
        "scaling_factor": 0.3611,
        "shift_factor": 0.1159,
    }
    return randomize_vae(AutoencoderKL(**{**sizes, **changed}), seed)


def flux2_vae(seed: int) -> AutoencoderKLFlux2:
    """Its latents are packed and normalized by the statistics of a batch norm."""
    vae = AutoencoderKLFlux2(
        block_out_channels=(8, 8, 16, 16),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
    )
    generator = torch.Generator().manual_seed(seed + 100)
    vae.bn.running_mean.normal_(0, 0.1, generator=generator)
    vae.bn.running_var.uniform_(0.5, 1.5, generator=generator)
    return randomize_vae(vae, seed)


def clip_tokenizer() -> CLIPTokenizer:
    tokenizer = CLIPTokenizer().train_new_from_iterator(CORPUS, vocab_size=1000, show_progress=False)
    tokenizer.model_max_length = 77
    return tokenizer


def clip_text_model(
    tokenizer: CLIPTokenizer, seed: int, kind: type[PreTrainedModel] = CLIPTextModel
) -> PreTrainedModel:
    """A CLIPTextModel or a CLIPTextModelWithProjection."""
    config = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=32,
        bos_token_id=tokenizer.bos_token_id,
        # CLIP pools at the first token with this id; 2 would choose the old rule, the largest id.
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return randomize(kind(config), seed)


def t5_tokenizer(max_length: int) -> T5Tokenizer:
    vocab = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocab += [(character, -10.0) for character in string.printable.strip()]
    vocab += [(f"▁{word}", -3.0) for word in WORDS.split()]
    return T5Tokenizer(vocab=vocab, extra_ids=0, model_max_length=max_length)


def t5_encoder(tokenizer: T5Tokenizer | ByT5Tokenizer, seed: int, **changed: Any) -> T5EncoderModel:
    """One table of relative position biases for all layers, gated GELU: the T5 1.1 of FLUX.1."""
    return randomize(T5EncoderModel(T5Config(**{**_t5_sizes(tokenizer), **changed})), seed)


def umt5_encoder(tokenizer: T5Tokenizer, seed: int) -> UMT5EncoderModel:
    """A table of relative position biases in every layer: the UMT5 of Wan."""
    return randomize(UMT5EncoderModel(UMT5Config(**_t5_sizes(tokenizer))), seed)


def _t5_sizes(tokenizer: T5Tokenizer | ByT5Tokenizer) -> dict:
    return {
        "vocab_size": len(tokenizer),
        "d_model": 32,
        "d_ff": 64,
        "d_kv": 4,
        "num_layers": 2,
        "num_heads": 8,
        "feed_forward_proj": "gated-gelu",
        "is_encoder_decoder": False,
        "use_cache": False,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }


def gemma_tokenizer(max_length: int) -> GemmaTokenizer:
    tokenizer = GemmaTokenizer().train_new_from_iterator(CORPUS, vocab_size=1000, show_progress=False)
    tokenizer.model_max_length = max_length
    return tokenizer


def llama_tokenizer(max_length: int) -> LlamaTokenizer:
    tokenizer = LlamaTokenizer(pad_token="<pad>", padding_side="right").train_new_from_iterator(
        CORPUS, vocab_size=1000, show_progress=False
    )
    tokenizer.model_max_length = max_length
    return tokenizer


def byte_bpe_tokenizer(special_tokens: list[str], template: str = "") -> Qwen2Tokenizer:
    """A byte-level BPE, the kind Qwen and Mistral use, that knows the words of the prompt templates."""
    return Qwen2Tokenizer().train_new_from_iterator(
        [*CORPUS, template], vocab_size=2000, new_special_tokens=special_tokens, show_progress=False
    )
