"""AnyFlow-FAR: AnyFlow made chunk by chunk, whose blocks cache keys and values of the chunks before."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, PerHead, Split, attention, feed_forward

SPEC = ModelSpec(
    transformer="AnyFlowFARTransformer3DModel",
    title="AnyFlow-FAR",
    blocks=(Blocks("blocks", uncached="its blocks fill caches that later forwards read"),),
    tp_plan={
        "blocks.*": PerHead({5: 2}, argument="kv_cache"),
        **attention("blocks.*.attn1", norms="norm_across_heads"),
        **attention("blocks.*.attn2", norms="norm_across_heads"),
        **feed_forward("blocks.*.ffn"),
    },
    cp_plan={
        # The model modulates all tokens by their own timesteps behind the norm, so only the blocks' are cut.
        "condition_embedder": {1: Split(1)},
        "blocks.0": {"hidden_states": Split(1)},
        # The processor takes block masks and lays caches out for all tokens.
        "blocks.*.attn1": {"hidden_states": Gather(1), 0: Split(1)},
        "norm_out": Gather(1),
    },
    attention={
        "blocks.*.attn1": Attention("AnyFlowCausalAttnProcessor"),
        "blocks.*.attn2": Attention("AnyFlowCrossAttnProcessor"),
    },
    batch_dims={"chunk_partition": None},
)
