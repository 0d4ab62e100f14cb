"""Wan VACE: the blocks of Wan, and control blocks that run first and whose hints some of them add."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Split, attention, feed_forward

_STYLES = {
    **attention("attn1", norms="norm_across_heads"),
    **attention("attn2", norms="norm_across_heads"),
    **feed_forward("ffn"),
    # Only image-to-video models attend to image embeddings.
    "attn2.add_k_proj?": "colwise",
    "attn2.add_v_proj?": "colwise",
    "attn2.norm_added_k?": "norm_across_heads",
}

SPEC = ModelSpec(
    transformer="WanVACETransformer3DModel",
    title="Wan VACE",
    blocks=(
        Blocks("vace_blocks", returns=("", "control_hidden_states"), apart="it makes the hints that other blocks add"),
        Blocks("blocks", between="hints are added"),
    ),
    tp_plan={
        **{f"{blocks}.*.{part}": style for blocks in ("vace_blocks", "blocks") for part, style in _STYLES.items()},
        "vace_blocks.*.proj_in?": "colwise_gather_output",
        "vace_blocks.*.proj_out": "colwise_gather_output",
    },
    cp_plan={
        "rope": {0: Split(1), 1: Split(1)},
        # Only the first control block reads the video, and the control it returns is cut from there on.
        "vace_blocks.0": {"hidden_states": Split(1), "control_hidden_states": Split(1)},
        "blocks.0": {"hidden_states": Split(1)},
        "proj_out": Gather(1),
    },
    attention={
        "vace_blocks.*.attn1": Attention("WanAttnProcessor", ("image",)),
        "vace_blocks.*.attn2": Attention("WanAttnProcessor"),
        "blocks.*.attn1": Attention("WanAttnProcessor", ("image",)),
        "blocks.*.attn2": Attention("WanAttnProcessor"),
    },
    batch_dims={"control_hidden_states_scale": None},
)
