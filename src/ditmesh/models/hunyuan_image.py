"""HunyuanImage-2.1: double- then single-stream blocks; the valid text of two encoders comes first."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Split, double_stream, single_stream

SPEC = ModelSpec(
    transformer="HunyuanImageTransformer2DModel",
    title="HunyuanImage",
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
        # The transformer works out masks from whole lengths, so the streams are cut where the blocks begin.
        "transformer_blocks.0": {"hidden_states": Split(1), "encoder_hidden_states": Split(1, stream="text")},
        "rope": {0: Split(0), 1: Split(0)},
        "proj_out": Gather(1),
    },
    attention={
        "context_embedder.token_refiner.refiner_blocks.*.attn": Attention("AttnProcessor2_0"),
        "transformer_blocks.*.attn": Attention("HunyuanImageAttnProcessor", ("image", "text")),
        "single_transformer_blocks.*.attn": Attention("HunyuanImageAttnProcessor", ("image", "text")),
    },
)
