"""DiT: class-conditional self-attention blocks, each with embeddings of timestep and class of its own."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Split, attention, feed_forward

SPEC = ModelSpec(
    transformer="DiTTransformer2DModel",
    title="DiT",
    blocks=(Blocks("transformer_blocks", lends=("0.norm1.emb",)),),
    tp_plan={
        "transformer_blocks.*.norm1.emb.timestep_embedder.linear_1": "colwise",
        "transformer_blocks.*.norm1.emb.timestep_embedder.linear_2": "rowwise",
        "transformer_blocks.*.norm1.linear": "colwise_gather_output",
        **attention("transformer_blocks.*.attn1"),
        **feed_forward("transformer_blocks.*.ff"),
        "proj_out_1": "colwise_gather_output",
    },
    cp_plan={"pos_embed": {0: Split(1)}, "proj_out_2": Gather(1)},
    attention={"transformer_blocks.*.attn1": Attention("AttnProcessor2_0", ("image",))},
    covers={"activation_fn": ("gelu-approximate", "gelu")},  # gated ones pack two parts into one projection
)
