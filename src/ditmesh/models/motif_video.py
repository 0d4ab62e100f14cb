"""Motif-Video: HunyuanVideo-like blocks, some of which attend to the text once more."""

from ditmesh.models.plans import double_then_single
from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Split, attention

SPEC = ModelSpec(
    transformer="MotifVideoTransformer3DModel",
    title="Motif-Video",
    blocks=(
        Blocks("transformer_blocks", returns=("hidden_states", "encoder_hidden_states")),
        Blocks("single_transformer_blocks", returns=("hidden_states", "encoder_hidden_states")),
    ),
    tp_plan={
        **double_then_single(),
        **attention("transformer_blocks.*.cross_attn", "?"),
        # It reads the heads of the attention before it, and adds to them.
        "single_transformer_blocks.*.cross_attn.to_q?": "rowwise",
        "single_transformer_blocks.*.cross_attn.to_out.0?": "colwise",
    },
    replicated={
        "single_transformer_blocks.*.cross_attn.to_k?": "every rank attends with all heads, whose queries it sums",
        "single_transformer_blocks.*.cross_attn.to_v?": "every rank attends with all heads, whose queries it sums",
    },
    cp_plan={
        "": {"encoder_attention_mask": Split(1, stream="text", mask=True)},
        "x_embedder": Split(1),
        "context_embedder": Split(1, stream="text"),
        "image_embedder?": Split(1, stream="first_frame"),
        "rope": {0: Split(0), 1: Split(0)},
        "proj_out": Gather(1),
    },
    attention={
        "transformer_blocks.*.attn": Attention("MotifVideoAttnProcessor2_0", ("image", "first_frame?", "text")),
        "transformer_blocks.*.cross_attn?": Attention("MotifVideoCrossAttnProcessor2_0", ("image",), keys=("text",)),
        "single_transformer_blocks.*.attn": Attention("MotifVideoAttnProcessor2_0", ("image", "first_frame?", "text")),
        "single_transformer_blocks.*.cross_attn?": Attention(
            "MotifVideoCrossAttnProcessor2_0", ("image",), keys=("text",)
        ),
    },
    covers={"num_decoder_layers": (0,)},  # decoder blocks attend to the image twice, in other streams
)
