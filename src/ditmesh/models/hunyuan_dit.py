"""HunyuanDiT: self- and cross-attention blocks, the second half of which takes a skip from the first."""

from ditmesh.models.plans import self_and_cross
from ditmesh.spec import Blocks, Gather, ModelSpec, Split, attention, feed_forward


def _skip(block: int, count: int) -> int | None:
    """The last block takes what the first returned, the one before it what the second did, up to the middle."""
    return count - 1 - block if block > count // 2 else None


SPEC = ModelSpec(
    transformer="HunyuanDiT2DModel",
    title="HunyuanDiT",
    blocks=(Blocks("blocks", reaches_back=_skip),),
    tp_plan={
        "blocks.*.skip_linear?": "colwise_gather_output",
        "blocks.*.norm1.linear": "colwise_gather_output",
        **attention("blocks.*.attn1"),
        **attention("blocks.*.attn2"),
        **feed_forward("blocks.*.ff"),
        "norm_out.linear": "colwise_gather_output",
    },
    cp_plan={
        "": {"image_rotary_emb": Split(0), "controlnet_block_samples": Split(1)},
        "pos_embed": {0: Split(1)},
        "proj_out": Gather(1),
    },
    attention=self_and_cross("blocks.*", "HunyuanAttnProcessor2_0"),
    covers={"activation_fn": ("gelu-approximate", "gelu")},  # gated ones pack two parts into one projection
)
