"""PRX: image tokens attend to themselves and to text that no block changes; packed projections."""

from ditmesh.spec import Attention, Blocks, Fused, Gather, ModelSpec, Split, linears

SPEC = ModelSpec(
    transformer="PRXTransformer2DModel",
    title="PRX",
    blocks=(Blocks("blocks"),),
    tp_plan={
        "blocks.*.modulation.lin": "colwise_gather_output",
        "blocks.*.attention": "heads",
        "blocks.*.attention.img_qkv_proj": Fused("colwise", ("heads", "heads", "heads")),
        "blocks.*.attention.txt_kv_proj": Fused("colwise", ("heads", "heads")),
        "blocks.*.attention.to_out.0": "rowwise",
        **linears("blocks.*", "gate_proj up_proj", "down_proj"),
        "final_layer.adaLN_modulation.1": "colwise_gather_output",
    },
    cp_plan={
        "": {"encoder_hidden_states": Split(1, stream="text"), "attention_mask": Split(1, stream="text", mask=True)},
        "img_in": {0: Split(1)},
        "pe_embedder": {0: Split(2)},
        "final_layer": Gather(1),
    },
    attention={"blocks.*.attention": Attention("PRXAttnProcessor2_0", ("image",), keys=("text", "image"))},
    heads="num_heads",
    width="hidden_size",
)
