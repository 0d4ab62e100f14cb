"""A tiny FLUX.2: shared modulation, fused parallel blocks, Mistral3 as the text encoder."""

from pathlib import Path

import torch
from diffusers import AutoencoderKLFlux2, FlowMatchEulerDiscreteScheduler, Flux2Pipeline, Flux2Transformer2DModel
from transformers import Mistral3Config, Mistral3ForConditionalGeneration, PreTrainedTokenizerFast

from .parts import byte_bpe_tokenizer, randomize, randomize_vae

CALL = {
    "prompt": "a photo of a red circle on a blue background",
    "guidance_scale": 2.5,
    "num_inference_steps": 2,
    "height": 48,
    "width": 80,
    "max_sequence_length": 67,
}
HIDDEN = 16
SPECIAL_TOKENS = ["[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[IMG]"]
CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{% if message.role == 'system' %}[SYSTEM_PROMPT]{{ message.content[0].text }}[/SYSTEM_PROMPT]"
    "{% else %}[INST]{{ message.content[0].text }}[/INST]{% endif %}"
    "{% endfor %}"
)


def build(path: Path) -> Path:
    tokenizer = _tokenizer()
    pipe = Flux2Pipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=_vae(seed=1),
        text_encoder=_text_encoder(tokenizer, seed=2),
        tokenizer=tokenizer,
        transformer=_transformer(seed=3),
    )
    pipe.save_pretrained(path)
    return path


def _transformer(seed: int) -> Flux2Transformer2DModel:
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=8,
        joint_attention_dim=3 * HIDDEN,  # the pipeline stacks three hidden states
        timestep_guidance_channels=32,
        axes_dims_rope=(4, 4, 4, 4),
    )
    return randomize(transformer, seed)


def _vae(seed: int) -> AutoencoderKLFlux2:
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


def _text_encoder(tokenizer: PreTrainedTokenizerFast, seed: int) -> Mistral3ForConditionalGeneration:
    config = Mistral3Config(
        text_config={
            "model_type": "mistral",
            "vocab_size": len(tokenizer),
            "hidden_size": HIDDEN,
            "intermediate_size": 32,
            "num_hidden_layers": 31,  # the pipeline reads the outputs of layers 10, 20 and 30 unless told otherwise
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 8,
            "max_position_embeddings": 1024,
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        },
        vision_config={
            "model_type": "pixtral",
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "head_dim": 8,
            "image_size": 56,
            "patch_size": 14,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        tie_word_embeddings=False,
    )
    return randomize(Mistral3ForConditionalGeneration(config), seed)


def _tokenizer() -> PreTrainedTokenizerFast:
    """Stands where FLUX.2 has a PixtralProcessor, which needs torchvision; text goes through either alike."""
    return PreTrainedTokenizerFast(
        tokenizer_object=byte_bpe_tokenizer(["<s>", "</s>", "<pad>", *SPECIAL_TOKENS]).backend_tokenizer,
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>",
        padding_side="left",
        model_max_length=1024,
        chat_template=CHAT_TEMPLATE,
    )
