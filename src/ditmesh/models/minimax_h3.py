"""MiniMax H3: one sequence of text, video and audio tokens, each modulated by its own timestep and kind."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Split, attention, packed_feed_forward

SPEC = ModelSpec(
    transformer="MiniMaxH3Transformer3DModel",
    title="MiniMax H3",
    blocks=(Blocks("transformer_blocks"),),
    tp_plan={
        "transformer_blocks.*.adaln_proj.linear": "colwise_gather_output",
        **attention("transformer_blocks.*.attn"),
        **packed_feed_forward("transformer_blocks.*.ff"),
        "norm_out.linear": "colwise_gather_output",
    },
    cp_plan={
        # The model lays the kinds of tokens out by index, and picks them from the whole sequence again.
        "rope": {0: Split(0), 1: Split(0)},
        "transformer_blocks.0": {"hidden_states": Split(1)},
        "transformer_blocks.*": {"adaln_indices": Split(0)},
        "norm_out": {"timestep_indices": Split(0)},
        "proj_out": Gather(1),
        "audio_proj_out": Gather(1),
    },
    attention={
        "token_refiner.refiner_blocks.*.attn?": Attention("MiniMaxH3AttnProcessor"),
        "transformer_blocks.*.attn": Attention("MiniMaxH3AttnProcessor", ("image",)),
    },
    batch_dims=dict.fromkeys(
        ("timestep", "timestep_indices", "token_tags", "position_ids", "text_indices", "video_indices", "audio_indices")
    ),
)
