"""Mochi: joint blocks that drop the text's padding sample by sample; RoPE angles are learned for each head."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, PerHead, Split, attention, linears, packed_feed_forward

SPEC = ModelSpec(
    transformer="MochiTransformer3DModel",
    title="Mochi",
    blocks=(Blocks("transformer_blocks", returns=("hidden_states", "encoder_hidden_states")),),
    tp_plan={
        "rope": PerHead({3: 1}),
        "transformer_blocks.*.norm1.linear": "colwise_gather_output",
        "transformer_blocks.*.norm1_context.linear?": "colwise_gather_output",
        "transformer_blocks.*.norm1_context.linear_1?": "colwise_gather_output",  # the last block returns no text
        **attention("transformer_blocks.*.attn1"),
        **linears("transformer_blocks.*.attn1", "add_q_proj add_k_proj add_v_proj", "to_add_out?"),
        **packed_feed_forward("transformer_blocks.*.ff"),
        **packed_feed_forward("transformer_blocks.*.ff_context", "net.0.proj?", "net.2?"),
        "norm_out.linear": "colwise_gather_output",
    },
    cp_plan={
        "rope": {0: Split(0), 1: Split(0)},
        "transformer_blocks.0": {"hidden_states": Split(1), "encoder_hidden_states": Split(1, stream="text")},
        "transformer_blocks.*": {"encoder_attention_mask": Split(1, stream="text", mask=True, unseen=True)},
        "proj_out": Gather(1),
    },
    attention={"transformer_blocks.*.attn1": Attention("MochiAttnProcessor2_0", ("image", "text"))},
)
