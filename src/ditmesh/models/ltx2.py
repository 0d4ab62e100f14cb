"""LTX-2: a video and an audio stream that attend to themselves, to text and to each other, with or without gates."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, PerHead, Split, attention, feed_forward

_PROCESSORS = ("LTX2AudioVideoAttnProcessor", "LTX2PerturbedAttnProcessor")
_ATTENTIONS = ("attn1", "audio_attn1", "attn2", "audio_attn2", "audio_to_video_attn", "video_to_audio_attn")
_STYLES = {
    **attention("", norms="norm_across_heads"),
    ".to_gate_logits?": "colwise",  # LTX-2.3: one gate a head
}
_TABLE = PerHead({3: -1, 4: 1})  # interleaved [B, S, C], split [B, H, S, D / 2]

SPEC = ModelSpec(
    transformer="LTX2VideoTransformer3DModel",
    title="LTX-2",
    blocks=(Blocks("transformer_blocks", returns=("hidden_states", "audio_hidden_states")),),
    tp_plan={
        "rope": _TABLE,
        "audio_rope": _TABLE,
        "cross_attn_rope": _TABLE,
        "cross_attn_audio_rope": _TABLE,
        **{f"transformer_blocks.*.{name}{part}": style for name in _ATTENTIONS for part, style in _STYLES.items()},
        **feed_forward("transformer_blocks.*.ff"),
        **feed_forward("transformer_blocks.*.audio_ff"),
    },
    cp_plan={
        # Image-to-video has a timestep a token; the text stays whole, every token attends to all of it.
        "": {
            "hidden_states": Split(1),
            "audio_hidden_states": Split(1, stream="audio"),
            "timestep": Split(1, ndim=2),
            "audio_timestep": Split(1, stream="audio", ndim=2),
            "video_keyframes_mask": Split(1),
        },
        "rope": {0: Split(-2), 1: Split(-2)},
        "cross_attn_rope": {0: Split(-2), 1: Split(-2)},
        "audio_rope": {0: Split(-2, stream="audio"), 1: Split(-2, stream="audio")},
        "cross_attn_audio_rope": {0: Split(-2, stream="audio"), 1: Split(-2, stream="audio")},
        "proj_out": Gather(1),
        "audio_proj_out": Gather(1, stream="audio"),
    },
    attention={
        "transformer_blocks.*.attn1": Attention(_PROCESSORS, ("image",)),
        "transformer_blocks.*.audio_attn1": Attention(_PROCESSORS, ("audio",)),
        "transformer_blocks.*.attn2": Attention(_PROCESSORS),
        "transformer_blocks.*.audio_attn2": Attention(_PROCESSORS),
        "transformer_blocks.*.audio_to_video_attn": Attention(_PROCESSORS, ("image",), keys=("audio",)),
        "transformer_blocks.*.video_to_audio_attn": Attention(_PROCESSORS, ("audio",), keys=("image",)),
    },
    batch_dims={"spatio_temporal_guidance_blocks": None},
)
