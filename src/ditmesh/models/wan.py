"""Wan 2.1 and 2.2: self- and cross-attention blocks; query and key norms span all heads."""

from ditmesh.models.plans import self_and_cross
from ditmesh.spec import Blocks, Gather, ModelSpec, Split, attention, feed_forward, linears

SPEC = ModelSpec(
    transformer="WanTransformer3DModel",
    title="Wan",
    blocks=(Blocks("blocks"),),
    tp_plan={
        **attention("blocks.*.attn1", norms="norm_across_heads"),
        **attention("blocks.*.attn2", norms="norm_across_heads"),
        # Only image-to-video models attend to image embeddings.
        **linears("blocks.*.attn2", "add_k_proj? add_v_proj?"),
        "blocks.*.attn2.norm_added_k?": "norm_across_heads",
        **feed_forward("blocks.*.ffn"),
    },
    cp_plan={
        "": {"timestep": Split(1, ndim=2)},  # TI2V has a timestep a token, the others one a sample
        "rope": {0: Split(1), 1: Split(1)},
        "blocks.0": {"hidden_states": Split(1)},
        "proj_out": Gather(1),
    },
    attention=self_and_cross("blocks.*", "WanAttnProcessor"),
)
