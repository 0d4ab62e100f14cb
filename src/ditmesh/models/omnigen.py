"""OmniGen: one stream of prompt, conditioning pictures, timestep and image under one mask."""

from ditmesh.spec import Attention, Blocks, Gather, Heads, ModelSpec, Refuse, Split, packed_feed_forward, projections

SPEC = ModelSpec(
    transformer="OmniGenTransformer2DModel",
    title="OmniGen",
    blocks=(Blocks("layers"),),
    tp_plan={
        "layers.*.self_attn": Heads(("heads", "out_dim")),  # the processor joins heads to a width of out_dim
        **projections("layers.*.self_attn"),
        **packed_feed_forward("layers.*.mlp", "gate_up_proj", "down_proj"),
        "norm_out.linear": "colwise_gather_output",
    },
    cp_plan={
        "rope": {0: Split(0, stream="joint"), 1: Split(0, stream="joint")},
        "layers.0": {"hidden_states": Split(1, stream="joint")},
        # The transformer takes the image out of the stream behind this norm.
        "norm": Gather(1, stream="joint"),
    },
    attention={"layers.*.self_attn": Attention("OmniGenAttnProcessor2_0", ("joint",))},
    width="hidden_size",
    kv_heads="num_key_value_heads",
    batch_dims={
        "position_ids": None,  # its RoPE reads the first sample's positions, and the greatest of all
        **dict.fromkeys(
            ("input_img_latents", "input_image_sizes"), Refuse("the pictures of all samples are numbered through.")
        ),
    },
)
