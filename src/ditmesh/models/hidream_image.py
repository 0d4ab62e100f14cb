"""HiDream-I1: double- and single-stream blocks with experts; every block reads another layer of Llama's states."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Split, gated_feed_forward, linears


def _attention(path: str, stream: str, out: str) -> dict[str, str]:
    norms = dict.fromkeys((f"{path}.q_rms_norm{stream}", f"{path}.k_rms_norm{stream}"), "norm_across_heads")
    return {**linears(path, "to_q to_k to_v", optional=stream), **norms, f"{path}.{out}": "rowwise"}


_TEXT = "the last tokens are replaced by those of the next layer of Llama"

SPEC = ModelSpec(
    transformer="HiDreamImageTransformer2DModel",
    title="HiDream-I1",
    blocks=(
        Blocks("double_stream_blocks", returns=("hidden_states", "encoder_hidden_states"), between=_TEXT),
        Blocks("single_stream_blocks", between=_TEXT),
    ),
    tp_plan={
        "double_stream_blocks.*.block.adaLN_modulation.1": "colwise_gather_output",
        "double_stream_blocks.*.block.attn1": "heads",
        **_attention("double_stream_blocks.*.block.attn1", "", "to_out"),
        **_attention("double_stream_blocks.*.block.attn1", "_t", "to_out_t"),
        **gated_feed_forward("double_stream_blocks.*.block.ff_i", "?"),
        **gated_feed_forward("double_stream_blocks.*.block.ff_i.shared_experts", "?"),
        **gated_feed_forward("double_stream_blocks.*.block.ff_i.experts.*", "?"),
        **gated_feed_forward("double_stream_blocks.*.block.ff_t", "?"),
        "single_stream_blocks.*.block.adaLN_modulation.1": "colwise_gather_output",
        "single_stream_blocks.*.block.attn1": "heads",
        **_attention("single_stream_blocks.*.block.attn1", "", "to_out"),
        **gated_feed_forward("single_stream_blocks.*.block.ff_i", "?"),
        **gated_feed_forward("single_stream_blocks.*.block.ff_i.shared_experts", "?"),
        **gated_feed_forward("single_stream_blocks.*.block.ff_i.experts.*", "?"),
        "final_layer.adaLN_modulation.1": "colwise_gather_output",
    },
    cp_plan={
        "": {
            "encoder_hidden_states_t5": Split(-2, stream="t5"),
            "encoder_hidden_states_llama3": Split(-2, stream="llama"),
        },
        "x_embedder": {0: Split(1)},
        # The transformer puts its whole image positions and masks before those of the text a rank holds.
        "pe_embedder": {"ids": Split(1, stream=("image", ""))},
        "double_stream_blocks.*": {"hidden_states_masks": Split(1)},
        "single_stream_blocks.*": {"hidden_states_masks": Split(1, stream=("image", ""))},
        "final_layer": Gather(1),
    },
    attention={
        # The text: T5, the last layer of Llama, and the block's own layer of Llama.
        "double_stream_blocks.*.block.attn1": Attention("HiDreamAttnProcessor", ("image", "t5", "llama", "llama")),
        "single_stream_blocks.*.block.attn1": Attention("HiDreamAttnProcessor", ("image", "t5", "llama", "llama")),
    },
    batch_dims={"encoder_hidden_states_llama3": 1},  # [layer, sample, token, channel]
)
