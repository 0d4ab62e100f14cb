"""HunyuanVideo-1.5: double-stream blocks; text, glyphs and image embeddings share one padded stream."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Same, Split, double_stream

SPEC = ModelSpec(
    transformer="HunyuanVideo15Transformer3DModel",
    title="HunyuanVideo-1.5",
    blocks=(Blocks("transformer_blocks", returns=("hidden_states", "encoder_hidden_states")),),
    tp_plan={**double_stream("transformer_blocks.*"), "norm_out.linear": "colwise_gather_output"},
    cp_plan={
        "transformer_blocks.0": {"hidden_states": Split(1), "encoder_hidden_states": Split(1, stream="text")},
        "transformer_blocks.*": {"attention_mask": Split(1, stream="text", mask=True)},
        "rope": {0: Split(0), 1: Split(0)},
        "proj_out": Gather(1),
    },
    attention={
        "context_embedder.token_refiner.refiner_blocks.*.attn": Attention("AttnProcessor2_0"),
        "transformer_blocks.*.attn": Attention("HunyuanVideo15AttnProcessor2_0", ("image", "text")),
    },
    batch_dims={
        "image_embeds": Same(lambda pictures: bool(pictures.any()), "a batch has pictures if one of its samples has.")
    },
)
