"""SkyReels-V2: the blocks of Wan, with a timestep a frame (diffusion forcing) and attention in causal chunks."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Split, attention, feed_forward

SPEC = ModelSpec(
    transformer="SkyReelsV2Transformer3DModel",
    title="SkyReels-V2",
    blocks=(Blocks("blocks"),),
    tp_plan={
        **attention("blocks.*.attn1", norms="norm_across_heads"),
        **attention("blocks.*.attn2", norms="norm_across_heads"),
        # Only image-to-video models attend to image embeddings.
        "blocks.*.attn2.add_k_proj?": "colwise",
        "blocks.*.attn2.add_v_proj?": "colwise",
        "blocks.*.attn2.norm_added_k?": "norm_across_heads",
        **feed_forward("blocks.*.ffn"),
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
