"""Nucleus-Image: image tokens attend to themselves and to text; experts that choose their tokens among all of them."""

from ditmesh.spec import (
    Attention,
    Blocks,
    Gather,
    Heads,
    ModelSpec,
    Sharded,
    Split,
    linears,
    packed_feed_forward,
    projections,
)

SPEC = ModelSpec(
    transformer="NucleusMoEImageTransformer2DModel",
    title="Nucleus-Image",
    blocks=(Blocks("transformer_blocks"),),
    tp_plan={
        "transformer_blocks.*.img_mod.1": "colwise_gather_output",
        "transformer_blocks.*.encoder_proj": "colwise_gather_output",
        # The processor works the number of key and value heads out of the widths.
        "transformer_blocks.*.attn": Heads(("heads", "inner_dim", "inner_kv_dim")),
        **projections("transformer_blocks.*.attn"),
        **linears("transformer_blocks.*.attn", "add_k_proj add_v_proj"),
        # The MLP of a block without experts: [value | gate].
        **packed_feed_forward("transformer_blocks.*.img_mlp", "net.0.proj?", "net.2?"),
        **packed_feed_forward("transformer_blocks.*.img_mlp.shared_expert", "net.0.proj?", "net.2?"),
        "transformer_blocks.*.img_mlp.experts?": Sharded({"gate_up_proj": (2, 2), "down_proj": (1, 1)}),
        "norm_out.linear": "colwise_gather_output",
    },
    replicated={
        "transformer_blocks.*.img_mlp.gate?": "the router: as wide as there are experts, and all ranks need it"
    },
    cp_plan={
        # The transformer reads the text's full length before its blocks, so the streams are cut where the blocks begin.
        "transformer_blocks.0": {"hidden_states": Split(1)},
        "transformer_blocks.*": {"encoder_hidden_states": Split(1, stream="text")},
        "pos_embed": {0: Split(0), 1: Split(0, stream="text")},
        # An expert takes the tokens that suit it best out of the whole picture, so its choice needs the whole picture.
        "transformer_blocks.*.img_mlp": {
            "hidden_states": Gather(1),
            "hidden_states_unmodulated?": Gather(1),
            0: Split(1),
        },
        "proj_out": Gather(1),
    },
    attention={
        "transformer_blocks.*.attn": Attention("NucleusMoEAttnProcessor2_0", ("image",), keys=("image", "text")),
    },
    kv_heads="num_key_value_heads",
    tokenwise="hidden_states",
)
