"""GLM-Image: text and image share all weights of a block but the modulation."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Split, attention, feed_forward

SPEC = ModelSpec(
    transformer="GlmImageTransformer2DModel",
    title="GLM-Image",
    blocks=(Blocks("transformer_blocks", returns=("hidden_states", "encoder_hidden_states")),),
    tp_plan={
        "transformer_blocks.*.norm1.linear": "colwise_gather_output",
        **attention("transformer_blocks.*.attn1"),
        **feed_forward("transformer_blocks.*.ff"),
        "norm_out.linear": "colwise_gather_output",
    },
    cp_plan={
        "transformer_blocks.0": {"hidden_states": Split(1), "encoder_hidden_states": Split(1, stream="text")},
        "transformer_blocks.*": {
            "image_rotary_emb": Split(0),
            "attention_mask": Split(1, stream="text", mask=True),
        },
        "proj_out": Gather(1),
    },
    attention={"transformer_blocks.*.attn1": Attention("GlmImageAttnProcessor", ("text", "image"))},
    memories={"kv_caches": lambda caches: caches[0].mode == "write"},  # once, with the pictures to edit
)
