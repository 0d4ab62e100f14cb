"""Wan Animate 2: the blocks of Wan, whose keys and values of a reference video are cached for the video made of it."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Split, attention, linears

SPEC = ModelSpec(
    transformer="WanAnimate2Transformer3DModel",
    title="Wan Animate 2",
    blocks=(Blocks("blocks", uncached="its blocks fill caches that later forwards read"),),
    tp_plan={
        **attention("blocks.*.self_attn", norms="norm_across_heads"),
        **attention("blocks.*.cross_attn", norms="norm_across_heads"),
        **linears("blocks.*.cross_attn", "add_k_proj? add_v_proj?"),
        "blocks.*.cross_attn.norm_added_k?": "norm_across_heads",
        **linears("blocks.*.ffn", "0", "2"),
    },
    cp_plan={
        "blocks.0": {"hidden_states": Split(1)},
        # The processor lays all tokens out by frame, row and column, for RoPE and for a block mask, and caches them.
        "blocks.*.self_attn": {"hidden_states": Gather(1), 0: Split(1)},
        "head": Gather(1),
    },
    attention={
        "blocks.*.self_attn": Attention("WanAnimate2AttnProcessor"),
        "blocks.*.cross_attn": Attention("WanAnimate2CrossAttnProcessor"),
    },
    heads="num_heads",
    width="dim",
)
