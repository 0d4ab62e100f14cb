"""Latte: blocks within frames that take turns with blocks along time, where every token attends to its own past."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Split, attention, feed_forward

_STYLES = {**attention("attn1"), **attention("attn2", "?"), **feed_forward("ff")}
_LISTS = ("transformer_blocks", "temporal_transformer_blocks")

SPEC = ModelSpec(
    transformer="LatteTransformer3DModel",
    title="Latte",
    blocks=tuple(
        Blocks(blocks, takes_turns=True, uncached="its blocks take turns with those of the other list")
        for blocks in _LISTS
    ),
    tp_plan={f"{blocks}.*.{part}": style for blocks in _LISTS for part, style in _STYLES.items()},
    cp_plan={
        # Frames are cut into shards of their tokens: then the blocks along time have all they need.
        "pos_embed": Split(1),
        "temporal_transformer_blocks.*": {"timestep": Split(0, minor=True)},  # [B x S, ...]
        "proj_out": Gather(1),
    },
    attention={
        "transformer_blocks.*.attn1": Attention("AttnProcessor2_0", ("image",)),
        "transformer_blocks.*.attn2?": Attention("AttnProcessor2_0"),
        "temporal_transformer_blocks.*.attn1": Attention("AttnProcessor2_0"),
    },
)
