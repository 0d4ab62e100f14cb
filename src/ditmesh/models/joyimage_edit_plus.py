"""JoyImage-Edit-Plus: JoyImage-Edit for images of any size, padded to one sequence length."""

from ditmesh.spec import Attention, Blocks, Fused, Gather, ModelSpec, Split, feed_forward

SPEC = ModelSpec(
    transformer="JoyImageEditPlusTransformer3DModel",
    title="JoyImage-Edit-Plus",
    blocks=(Blocks("double_blocks", returns=("hidden_states", "encoder_hidden_states")),),
    tp_plan={
        "double_blocks.*.attn": "heads",
        "double_blocks.*.attn.img_attn_qkv": Fused("colwise", ("rest", "rest", "rest")),
        "double_blocks.*.attn.img_attn_proj": "rowwise",
        **feed_forward("double_blocks.*.img_mlp"),
        "double_blocks.*.attn.txt_attn_qkv": Fused("colwise", ("rest", "rest", "rest")),
        "double_blocks.*.attn.txt_attn_proj": "rowwise",
        **feed_forward("double_blocks.*.txt_mlp"),
    },
    cp_plan={
        "double_blocks.0": {"hidden_states": Split(1), "encoder_hidden_states": Split(1, stream="text")},
        "double_blocks.*": {"image_rotary_emb": Split(1)},
        "proj_out": Gather(1),
    },
    attention={"double_blocks.*.attn": Attention("JoyImageEditPlusAttnProcessor", ("image", "text"))},
    width="hidden_size",
)
