"""ACE-Step 1.5: self- and cross-attention blocks over audio, every other one within a sliding window."""

from ditmesh.spec import Attention, Blocks, Gather, Heads, ModelSpec, Split, linears, projections

SPEC = ModelSpec(
    transformer="AceStepTransformer1DModel",
    title="ACE-Step 1.5",
    blocks=(Blocks("layers"),),
    tp_plan={
        "time_embed.time_proj": "colwise_gather_output",
        "time_embed_r.time_proj": "colwise_gather_output",
        "layers.*.self_attn": Heads(("heads", "kv_heads")),
        **projections("layers.*.self_attn"),
        "layers.*.cross_attn": Heads(("heads", "kv_heads")),
        **projections("layers.*.cross_attn"),
        **linears("layers.*.mlp", "gate_proj up_proj", "down_proj"),
    },
    cp_plan={
        "layers.0": {"hidden_states": Split(1, stream="audio")},
        "layers.*": {"position_embeddings": Split(0, stream="audio")},
        "norm_out": Gather(1, stream="audio"),
    },
    attention={
        "layers.*.self_attn": Attention("AceStepAttnProcessor2_0", ("audio",)),
        "layers.*.cross_attn": Attention("AceStepAttnProcessor2_0"),
    },
    head_dim="head_dim",
    kv_heads="num_key_value_heads",
)
