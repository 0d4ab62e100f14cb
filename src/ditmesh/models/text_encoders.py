"""Text encoders: the classes that tests hold to one process, and plans for those that transformers ships none for."""

from collections.abc import Mapping

from ditmesh.spec import linears

# Class -> the modules of it that every rank keeps whole, beside its norms; "" is all of it.
TEXT_ENCODERS: dict[str, tuple[str, ...]] = {
    "T5EncoderModel": (),
    "UMT5EncoderModel": (),
    "LlamaModel": (),
    "LlamaForCausalLM": (),
    "GemmaModel": (),
    "Gemma2Model": (),
    "Gemma3ForCausalLM": (),
    "Gemma3ForConditionalGeneration": ("model.vision_tower", "model.multi_modal_projector"),
    "MistralModel": (),
    "MistralForCausalLM": (),
    "Mistral3Model": ("vision_tower", "multi_modal_projector"),
    "Mistral3ForConditionalGeneration": ("model.vision_tower", "model.multi_modal_projector"),
    "Qwen2_5_VLForConditionalGeneration": ("model.visual",),
    "Qwen3Model": (),
    "Qwen3ForCausalLM": (),
    "Qwen3VLModel": ("visual",),
    "Qwen3VLForConditionalGeneration": ("model.visual",),
    "GlmModel": (),
    "GlmForCausalLM": (),
    "Glm4Model": (),
    "Glm4ForCausalLM": (),
    "SmolLM3ForCausalLM": (),
    "BertModel": ("",),
    "CLIPTextModel": ("",),
    "CLIPTextModelWithProjection": ("",),
}

# For the language models that transformers has no plan for. One is taken for a model that has all its modules.
PLANS: tuple[Mapping[str, str], ...] = (
    {
        **linears("layers.*.self_attn", "q_proj k_proj v_proj", "o_proj"),
        **linears("layers.*.mlp", "gate_proj up_proj", "down_proj"),
    },
    {
        # The bias is a table with a column for each head.
        **linears("block.*.layer.0.SelfAttention", "q k v relative_attention_bias?", "o"),
        **linears("block.*.layer.1.DenseReluDense", "wi? wi_0? wi_1?", "wo"),
    },
)
