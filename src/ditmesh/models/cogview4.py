"""CogView4: double-stream blocks of one attention and one MLP for both streams, the image returned first."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Refuse, Split, attention, feed_forward

SPEC = ModelSpec(
    transformer="CogView4Transformer2DModel",
    title="CogView4",
    blocks=(Blocks("transformer_blocks", returns=("hidden_states", "encoder_hidden_states")),),
    tp_plan={
        "transformer_blocks.*.norm1.linear": "colwise_gather_output",
        **attention("transformer_blocks.*.attn1"),
        **feed_forward("transformer_blocks.*.ff"),
        "norm_out.linear": "colwise_gather_output",
    },
    cp_plan={
        "": {
            "image_rotary_emb": Split(0),
            "attention_mask": Refuse(
                "its processor adds the mask, ones and zeros, to the scores of a rank's own tokens. The pipelines pass "
                "none; use tp_size."
            ),
        },
        "rope": {0: Split(0), 1: Split(0)},
        "patch_embed": {0: Split(1), 1: Split(1, stream="text")},
        "proj_out": Gather(1),
    },
    attention={"transformer_blocks.*.attn1": Attention("CogView4AttnProcessor", ("text", "image"))},
)
