"""Kandinsky 6: blocks of a video and an audio stream, which attend to themselves, to text and to each other."""

from ditmesh.spec import Attention, Blocks, Gather, Heads, ModelSpec, Split, Style, feed_forward, linears

_PROCESSOR = "Kandinsky6AttnProcessor"


def _attention(path: str) -> dict[str, Style]:
    return {path: Heads(("num_heads",)), **linears(path, "to_query to_key to_value", "out_layer")}


def _half(path: str) -> dict[str, Style]:
    return {
        f"{path}.visual_modulation.out_layer": "colwise_gather_output",
        **_attention(f"{path}.self_attention"),
        **_attention(f"{path}.cross_attention"),
        **feed_forward(f"{path}.feed_forward"),
    }


SPEC = ModelSpec(
    transformer="Kandinsky6Transformer3DModel",
    title="Kandinsky 6",
    blocks=(Blocks("visual_transformer_blocks", returns=("vis", "aud")),),
    tp_plan={
        **_half("visual_transformer_blocks.*.video_dec_block"),
        **_half("visual_transformer_blocks.*.audio_dec_block"),
        **_attention("visual_transformer_blocks.*.va_cross_attention"),
        **_attention("visual_transformer_blocks.*.av_cross_attention"),
        "visual_transformer_blocks.*.va_modulation.out_layer": "colwise_gather_output",
        "visual_transformer_blocks.*.av_modulation.out_layer": "colwise_gather_output",
        "out_layer.modulation.out_layer": "colwise_gather_output",
        "audio_out_layer.modulation.out_layer": "colwise_gather_output",
    },
    cp_plan={
        "visual_transformer_blocks.0": {"vis": Split(1, stream="video"), "aud": Split(1, stream="audio")},
        "visual_transformer_blocks.*": {"vis_rope": Split(0, stream="video"), "aud_rope": Split(0, stream="audio")},
        # The transformer gives the video its frames, rows and columns back right behind the blocks.
        "visual_transformer_blocks.-1": {0: Gather(1, stream="video"), 1: Gather(1, stream="audio")},
    },
    attention={
        "video_text_transformer_blocks.*.attn?": Attention(_PROCESSOR),
        "audio_text_transformer_blocks.*.attn?": Attention(_PROCESSOR),
        "visual_transformer_blocks.*.video_dec_block.self_attention": Attention(_PROCESSOR, ("video",)),
        "visual_transformer_blocks.*.video_dec_block.cross_attention": Attention(_PROCESSOR),
        "visual_transformer_blocks.*.audio_dec_block.self_attention": Attention(_PROCESSOR, ("audio",)),
        "visual_transformer_blocks.*.audio_dec_block.cross_attention": Attention(_PROCESSOR),
        "visual_transformer_blocks.*.va_cross_attention": Attention(_PROCESSOR, ("video",), keys=("audio",)),
        "visual_transformer_blocks.*.av_cross_attention": Attention(_PROCESSOR, ("audio",), keys=("video",)),
    },
    heads=lambda config: config["model_dim"] // sum(config["axes_dims"]),
    width="model_dim",
)
