"""SkyReels-V2: the blocks of Wan, with a timestep a frame (diffusion forcing) and attention in causal chunks."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Split

SPEC = ModelSpec(
    transformer="SkyReelsV2Transformer3DModel",
    title="SkyReels-V2",
    blocks=(Blocks("blocks"),),
    tp_plan={
        "blocks.*.attn1": "heads",
        "blocks.*.attn1.to_q": "colwise",
        "blocks.*.attn1.to_k": "colwise",
        "blocks.*.attn1.to_v": "colwise",
        "blocks.*.attn1.norm_q": "norm_across_heads",
        "blocks.*.attn1.norm_k": "norm_across_heads",
        "blocks.*.attn1.to_out.0": "rowwise",
        "blocks.*.attn2": "heads",
        "blocks.*.attn2.to_q": "colwise",
        "blocks.*.attn2.to_k": "colwise",
        "blocks.*.attn2.to_v": "colwise",
        "blocks.*.attn2.norm_q": "norm_across_heads",
        "blocks.*.attn2.norm_k": "norm_across_heads",
        "blocks.*.attn2.to_out.0": "rowwise",
        # Only image-to-video models attend to image embeddings.
        "blocks.*.attn2.add_k_proj?": "colwise",
        "blocks.*.attn2.add_v_proj?": "colwise",
        "blocks.*.attn2.norm_added_k?": "norm_across_heads",
        "blocks.*.ffn.net.0.proj": "colwise",
        "blocks.*.ffn.net.2": "rowwise",
    },
    cp_plan={
        "rope": {0: Split(1), 1: Split(1)},
        "blocks.0": {"hidden_states": Split(1)},
        "blocks.*": {"temb": Split(2, ndim=4)},  # diffusion forcing: [B, 6, S, C]
        # The model then scales by a timestep a token that no module sees, so it needs every token here.
        "norm_out": Gather(1),
    },
    attention={
        "blocks.*.attn1": Attention("SkyReelsV2AttnProcessor", ("image",)),
        "blocks.*.attn2": Attention("SkyReelsV2AttnProcessor"),
    },
)
