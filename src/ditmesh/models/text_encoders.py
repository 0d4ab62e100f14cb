"""Text encoders: the classes that tests hold to one process, and plans for those that transformers ships none for."""

from collections.abc import Mapping

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
        "layers.*.self_attn.q_proj": "colwise",
        "layers.*.self_attn.k_proj": "colwise",
        "layers.*.self_attn.v_proj": "colwise",
        "layers.*.self_attn.o_proj": "rowwise",
        "layers.*.mlp.gate_proj": "colwise",
        "layers.*.mlp.up_proj": "colwise",
        "layers.*.mlp.down_proj": "rowwise",
    },
    {
        "block.*.layer.0.SelfAttention.q": "colwise",
        "block.*.layer.0.SelfAttention.k": "colwise",
        "block.*.layer.0.SelfAttention.v": "colwise",
        "block.*.layer.0.SelfAttention.relative_attention_bias?": "colwise",  # a table with a column for each head
        "block.*.layer.0.SelfAttention.o": "rowwise",
        "block.*.layer.1.DenseReluDense.wi?": "colwise",
        "block.*.layer.1.DenseReluDense.wi_0?": "colwise",
        "block.*.layer.1.DenseReluDense.wi_1?": "colwise",
        "block.*.layer.1.DenseReluDense.wo": "rowwise",
    },
)
