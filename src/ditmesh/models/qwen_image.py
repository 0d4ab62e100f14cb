"""Qwen-Image: double-stream blocks throughout; a padding mask for the text; RoPE tables built inside the model."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Split, added_projections, feed_forward, projections

SPEC = ModelSpec(
    transformer="QwenImageTransformer2DModel",
    title="Qwen-Image",
    blocks=(
        Blocks(
            "transformer_blocks", returns=("encoder_hidden_states", "hidden_states"), between="ControlNet residuals"
        ),
    ),
    tp_plan={
        "transformer_blocks.*.img_mod.1": "colwise_gather_output",
        "transformer_blocks.*.txt_mod.1": "colwise_gather_output",
        **projections("transformer_blocks.*.attn"),
        **added_projections("transformer_blocks.*.attn"),
        **feed_forward("transformer_blocks.*.img_mlp"),
        **feed_forward("transformer_blocks.*.txt_mlp"),
        "norm_out.linear": "colwise_gather_output",
    },
    cp_plan={
        # The transformer reads the text's full length before its blocks, so the streams are cut where the blocks begin.
        "": {"controlnet_block_samples": Split(1)},
        "transformer_blocks.0": {"hidden_states": Split(1), "encoder_hidden_states": Split(1, stream="text")},
        "transformer_blocks.*": {
            "modulate_index": Split(1),
            "encoder_hidden_states_mask": Split(1, stream="text", mask=True),
        },
        "pos_embed": {0: Split(0), 1: Split(0, stream="text")},
        "proj_out": Gather(1),
    },
    attention={"transformer_blocks.*.attn": Attention("QwenDoubleStreamAttnProcessor2_0", ("text", "image"))},
    tokenwise="hidden_states",
)
