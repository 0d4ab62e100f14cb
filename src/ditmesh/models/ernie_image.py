"""ERNIE-Image: one stream of image and text, tokens before batch; modulation shared by all blocks."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Split, attention, linears

SPEC = ModelSpec(
    transformer="ErnieImageTransformer2DModel",
    title="ERNIE-Image",
    blocks=(Blocks("layers", returns=("x",)),),
    tp_plan={
        "adaLN_modulation.1": "colwise_gather_output",
        **attention("layers.*.self_attention"),
        **linears("layers.*.mlp", "gate_proj up_proj", "linear_fc2"),
        "final_norm.linear": "colwise_gather_output",
    },
    cp_plan={
        "layers.0": {"x": Split(0, stream="joint")},
        "layers.*": {"rotary_pos_emb": Split(1, stream="joint"), "temb": Split(0, stream="joint")},
        "final_linear": Gather(0, stream="joint"),
    },
    attention={"layers.*.self_attention": Attention("ErnieImageSingleStreamAttnProcessor", ("joint",))},
    width="hidden_size",
)
