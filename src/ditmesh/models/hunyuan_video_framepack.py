"""FramePack: HunyuanVideo with the frames made so far before the new ones in one sequence."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Split, double_stream, single_stream

SPEC = ModelSpec(
    transformer="HunyuanVideoFramepackTransformer3DModel",
    title="FramePack",
    blocks=(
        Blocks("transformer_blocks", returns=("hidden_states", "encoder_hidden_states")),
        Blocks("single_transformer_blocks", returns=("hidden_states", "encoder_hidden_states")),
    ),
    tp_plan={
        **double_stream("transformer_blocks.*"),
        "single_transformer_blocks.*.norm.linear": "colwise_gather_output",
        "single_transformer_blocks.*.attn": "heads",
        **single_stream("single_transformer_blocks.*"),
        "norm_out.linear": "colwise_gather_output",
    },
    cp_plan={
        "transformer_blocks.0": {"hidden_states": Split(1), "encoder_hidden_states": Split(1, stream="text")},
        "transformer_blocks.*": {"freqs_cis": Split(0)},
        "single_transformer_blocks.*": {"image_rotary_emb": Split(0)},
        # The new frames are the end of the whole sequence, which is taken after the last block.
        "single_transformer_blocks.-1": {0: Gather(1)},
    },
    attention={
        "context_embedder.token_refiner.refiner_blocks.*.attn": Attention("AttnProcessor2_0"),
        "transformer_blocks.*.attn": Attention("HunyuanVideoAttnProcessor2_0", ("image", "text")),
        "single_transformer_blocks.*.attn": Attention("HunyuanVideoAttnProcessor2_0", ("image", "text")),
    },
    batch_dims=dict.fromkeys(
        (
            "indices_latents",
            "indices_latents_clean",
            "indices_latents_history_2x",
            "indices_latents_history_4x",
        )
    ),
)
