"""CogView4: double-stream blocks of one attention and one MLP for both streams, the image returned first."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Refuse, Split

SPEC = ModelSpec(
    transformer="CogView4Transformer2DModel",
    title="CogView4",
    blocks=(Blocks("transformer_blocks", returns=("hidden_states", "encoder_hidden_states")),),
    tp_plan={
        "transformer_blocks.*.norm1.linear": "colwise_gather_output",
        "transformer_blocks.*.attn1": "heads",
        "transformer_blocks.*.attn1.to_q": "colwise",
        "transformer_blocks.*.attn1.to_k": "colwise",
        "transformer_blocks.*.attn1.to_v": "colwise",
        "transformer_blocks.*.attn1.to_out.0": "rowwise",
        "transformer_blocks.*.ff.net.0.proj": "colwise",
        "transformer_blocks.*.ff.net.2": "rowwise",
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
