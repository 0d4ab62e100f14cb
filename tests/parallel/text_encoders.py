"""Tiny text encoders of every class diffusers pipelines hold, with a padded batch, and what the ranks run on them."""

from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh

from ditmesh.parallel.text_encoder import apply_text_encoder_parallel
from tests.counting import CommunicationCounter

VOCABULARY, HEAD_DIM, INNER, LAYERS, IMAGE_TOKEN = 101, 8, 44, 2, 7


def language(heads: int = 8, key_value_heads: int = 2, **more: Any) -> dict[str, Any]:
    """The configuration of a decoder."""
    return {
        "vocab_size": VOCABULARY, "hidden_size": 64, "intermediate_size": INNER, "num_hidden_layers": LAYERS,
        "num_attention_heads": heads, "num_key_value_heads": key_value_heads, "head_dim": HEAD_DIM,
        "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, **more,
    }  # fmt: skip


def decoder(name: str, **config: Any) -> nn.Module:
    kind = getattr(transformers, name)
    return kind(kind.config_class(**language(**config)))


def tied_with_a_plan_for_it() -> nn.Module:
    """As transformers 5.17 builds it: the plan of a model with tied embeddings names them."""
    model = decoder("Qwen3ForCausalLM", tie_word_embeddings=True)
    model.config.base_model_tp_plan = {**model.config.base_model_tp_plan, "embed_tokens": "embedding_rowwise"}
    return model


def t5(name: str, heads: int = 8, **config: Any) -> nn.Module:
    kind = getattr(transformers, name)
    return kind(kind.config_class(
        vocab_size=VOCABULARY, d_model=24, d_kv=HEAD_DIM, d_ff=INNER, num_layers=LAYERS, num_heads=heads,
        relative_attention_num_buckets=8, relative_attention_max_distance=16, **config,
    ))  # fmt: skip


def other(name: str) -> nn.Module:
    kind = getattr(transformers, name)
    return kind(kind.config_class(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
    ))  # fmt: skip


def gemma3() -> nn.Module:
    text = language(sliding_window=4, layer_types=["sliding_attention", "full_attention"])
    vision = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16,
        "patch_size": 4,
    }  # fmt: skip
    config = transformers.Gemma3Config(
        text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_id=IMAGE_TOKEN, boi_token_id=8,
        eoi_token_id=9,
    )  # fmt: skip
    return transformers.Gemma3ForConditionalGeneration(config)


def mistral3(name: str) -> nn.Module:
    vision = {
        "model_type": "pixtral", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 16, "patch_size": 4,
    }  # fmt: skip
    text = {"model_type": "mistral", **language(), "sliding_window": None}
    config = transformers.Mistral3Config(
        text_config=text, vision_config=vision, image_token_index=IMAGE_TOKEN, spatial_merge_size=2
    )
    return getattr(transformers, name)(config)


def qwen2_5_vl() -> nn.Module:
    text = language(key_value_heads=4) | {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1]}}
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 64, "patch_size": 4,
        "window_size": 16, "fullatt_block_indexes": [0],
    }  # fmt: skip
    config = transformers.Qwen2_5_VLConfig(text_config=text, vision_config=vision, image_token_id=IMAGE_TOKEN)
    return transformers.Qwen2_5_VLForConditionalGeneration(config)


def qwen3_vl(name: str) -> nn.Module:
    text = language() | {"rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1]}}
    vision = {
        "depth": 1, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 64, "patch_size": 4,
        "num_position_embeddings": 16, "deepstack_visual_indexes": [0],
    }  # fmt: skip
    config = transformers.Qwen3VLConfig(text_config=text, vision_config=vision, image_token_id=IMAGE_TOKEN)
    return getattr(transformers, name)(config)


ENCODERS: dict[str, Callable[[], nn.Module]] = {
    "T5EncoderModel": lambda: t5("T5EncoderModel", feed_forward_proj="gated-gelu"),
    "T5EncoderModel-ungated": lambda: t5("T5EncoderModel", heads=6),
    "UMT5EncoderModel": lambda: t5("UMT5EncoderModel"),
    "LlamaModel": lambda: decoder("LlamaModel"),
    "LlamaForCausalLM": lambda: decoder("LlamaForCausalLM", attention_bias=True, mlp_bias=True),
    "GemmaModel": lambda: decoder("GemmaModel", key_value_heads=1),
    "Gemma2Model": lambda: decoder("Gemma2Model", key_value_heads=4, attn_implementation="eager", sliding_window=4),
    "Gemma3ForCausalLM": lambda: decoder("Gemma3ForCausalLM", heads=4, key_value_heads=1, sliding_window=4),
    "Gemma3ForConditionalGeneration": gemma3,
    "MistralModel": lambda: decoder("MistralModel"),
    "MistralForCausalLM": lambda: decoder("MistralForCausalLM"),
    "Mistral3Model": lambda: mistral3("Mistral3Model"),
    "Mistral3ForConditionalGeneration": lambda: mistral3("Mistral3ForConditionalGeneration"),
    "Qwen3Model": lambda: decoder("Qwen3Model", key_value_heads=1),
    "Qwen3ForCausalLM": lambda: decoder("Qwen3ForCausalLM", key_value_heads=8, tie_word_embeddings=True),
    "Qwen3ForCausalLM-tied": tied_with_a_plan_for_it,
    "Qwen2_5_VLForConditionalGeneration": qwen2_5_vl,
    "Qwen3VLModel": lambda: qwen3_vl("Qwen3VLModel"),
    "Qwen3VLForConditionalGeneration": lambda: qwen3_vl("Qwen3VLForConditionalGeneration"),
    "GlmModel": lambda: decoder("GlmModel", attention_bias=True),
    "GlmForCausalLM": lambda: decoder("GlmForCausalLM", attention_bias=False),
    "Glm4Model": lambda: decoder("Glm4Model", heads=7, key_value_heads=7),
    "Glm4ForCausalLM": lambda: decoder("Glm4ForCausalLM", key_value_heads=4),
    "SmolLM3ForCausalLM": lambda: decoder("SmolLM3ForCausalLM"),
}

OTHERS: dict[str, Callable[[], nn.Module]] = {
    "CLIPTextModel": lambda: other("CLIPTextModel"),
    "BertModel": lambda: other("BertModel"),
    "Phi3Model": lambda: decoder("Phi3Model"),
    "Olmo2Model": lambda: decoder("Olmo2Model"),
    "Gemma3ForCausalLM-2": lambda: decoder("Gemma3ForCausalLM", heads=2, key_value_heads=1),
}


def build(name: str, dtype: torch.dtype = torch.float32, attention: str = "") -> nn.Module:
    """An encoder of random weights, the same on every rank."""
    torch.manual_seed(0)
    model = (ENCODERS | OTHERS)[name]()
    if attention:
        model.set_attn_implementation(attention)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2)
    return model.to(dtype).eval()


def prompts() -> dict[str, Tensor]:
    """Two prompts of different lengths, padded as diffusers pipelines do."""
    tokens = torch.randint(10, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(tokens)
    tokens[1, 6:], mask[1, 6:] = 0, 0
    return {"input_ids": tokens, "attention_mask": mask}


def prompt_with_picture(name: str) -> dict[str, Any]:
    """A prompt with a picture of four tokens in it, for the encoders that see."""
    generator = torch.Generator().manual_seed(2)
    text = torch.randint(10, VOCABULARY, (1, 5), generator=generator)
    tokens = torch.cat([text, torch.full((1, 4), IMAGE_TOKEN), text], 1)
    inputs = {"input_ids": tokens, "attention_mask": torch.ones_like(tokens)}
    picture = torch.randn(1, 3, 16, 16, generator=generator)
    seen = (tokens == IMAGE_TOKEN).long()
    if name.startswith("Gemma3"):
        return inputs | {"pixel_values": picture, "token_type_ids": seen}
    if name.startswith("Mistral3"):
        return inputs | {"pixel_values": picture, "image_sizes": torch.tensor([[16, 16]])}
    patches = torch.randn(16, 3 * 2 * 4 * 4, generator=generator)
    return inputs | {"pixel_values": patches, "image_grid_thw": torch.tensor([[1, 4, 4]]), "mm_token_type_ids": seen}


def outputs(model: nn.Module, inputs: dict[str, Any]) -> list[Tensor]:
    """The last output (hidden states or logits) and the hidden states of all layers."""
    result = model(**inputs, output_hidden_states=True)
    return [result[0], *result.hidden_states]


def share(model: nn.Module, world: int, undo: ExitStack) -> list[str]:
    return apply_text_encoder_parallel(model, init_device_mesh("cpu", (world,)), undo)


def size(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def parallel(world: int, name: str, *build_args: Any, **inputs: Any) -> tuple[list[Tensor], int, list[str]]:
    """What a rank computes, the parameters it keeps, and what the encoder says stays whole."""
    model = build(name, *build_args)
    kept_whole = share(model, world, ExitStack())
    return outputs(model, inputs), size(model), kept_whole


def kept_whole(world: int, name: str) -> list[str]:
    """What an encoder says stays whole."""
    return share(build(name), world, ExitStack())


def generated(world: int, name: str) -> Tensor:
    """What an encoder continues a prompt with, as prompt enhancement does."""
    model = build(name)
    if world > 1:
        share(model, world, ExitStack())
    return model.generate(**prompts(), max_new_tokens=6, do_sample=False)


def refusal(world: int, name: str, spoil: str = "") -> str:
    """What an encoder is refused with; it has to be as before."""
    model = build(name)
    if spoil:
        model.set_submodule(spoil, nn.Identity())
    before = facts(model), size(model)
    try:
        share(model, world, ExitStack())
    except ValueError as error:
        assert (facts(model), size(model)) == before
        return str(error)
    raise AssertionError("not refused")


def communication(world: int, name: str) -> tuple[dict[str, int], dict[str, int]]:
    """Calls and bytes of one forward."""
    model = build(name)
    share(model, world, ExitStack())
    with CommunicationCounter() as counter:
        model(**prompts())
    return dict(counter.calls), dict(counter.bytes)


def facts(model: nn.Module) -> dict[str, Any]:
    """Everything a module remembers that undo has to put back."""
    simple = (int, str, float, bool, type(None))
    attributes = {
        f"{name}.{key}": value
        for name, module in model.named_modules()
        for key, value in vars(module).items()
        if isinstance(value, simple)
    }
    hooks = {f"{name} hooks": len(module._forward_hooks) for name, module in model.named_modules()}
    forwards = {f"{name} forward": "forward" in vars(module) for name, module in model.named_modules()}
    gradients = {f"{name} grad": parameter.requires_grad for name, parameter in model.named_parameters()}
    return attributes | hooks | forwards | gradients


def undone(world: int, name: str) -> bool:
    """Whether closing the stack puts weights (bit for bit), attributes, ties and hooks back."""
    model, plain = build(name), build(name)
    for each in (model, plain):
        for i, parameter in enumerate(each.parameters()):
            parameter.requires_grad_(i % 2 == 0)
    before = {key: x.clone() for key, x in model.state_dict().items()}
    with ExitStack() as undo:
        share(model, world, undo)
        outputs(model, prompts())
    outputs(plain, prompts())  # leaves hooks of transformers' own
    after = model.state_dict()
    assert facts(model) == facts(plain)
    assert list(after) == list(before)
    return all(torch.equal(before[key], after[key]) for key in before)
