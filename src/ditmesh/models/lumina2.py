"""Lumina-Image 2.0: image and text refined apart, then one stream of both; fewer key and value heads."""

from ditmesh.spec import Attention, Blocks, Gather, ModelSpec, Split, Style, attention, linears


def _block(path: str, optional: str = "") -> dict[str, Style]:
    mlp = linears(f"{path}.feed_forward", "linear_1 linear_3", "linear_2", optional)
    return attention(f"{path}.attn", optional) | mlp


SPEC = ModelSpec(
    transformer="Lumina2Transformer2DModel",
    title="Lumina-Image 2.0",
    blocks=(Blocks("layers"),),
    tp_plan={
        **_block("layers.*"),
        **_block("noise_refiner.*", "?"),
        **_block("context_refiner.*", "?"),
        "layers.*.norm1.linear": "colwise_gather_output",
        "noise_refiner.*.norm1.linear?": "colwise_gather_output",
        "norm_out.linear_1": "colwise_gather_output",
    },
    cp_plan={
        # Text without padding and image of each sample are laid end to end after the refiners: the image is cut around
        # its refiner, the text refined whole, their union cut at the blocks.
        "noise_refiner.0?": {"hidden_states": Split(1)},
        "noise_refiner.*?": {"image_rotary_emb": Split(1)},
        "noise_refiner.-1?": Gather(1),
        "layers.0": {"hidden_states": Split(1, stream="joint")},
        "layers.*": {"image_rotary_emb": Split(1, stream="joint")},
        "norm_out": Gather(1, stream="joint"),
    },
    attention={
        "noise_refiner.*.attn?": Attention("Lumina2AttnProcessor2_0", ("image",)),
        "context_refiner.*.attn?": Attention("Lumina2AttnProcessor2_0"),
        "layers.*.attn": Attention("Lumina2AttnProcessor2_0", ("joint",)),
    },
    width="hidden_size",
    kv_heads="num_kv_heads",
)
