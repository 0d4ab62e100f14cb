"""Plans of families: what several sheets say alike, and no model outside them."""

from typing import Any

from ditmesh.spec import Cut, Gather, Split, double_stream, single_stream

IMAGE_AND_TEXT: dict[str | int, Cut] = {"hidden_states": Split(1), "encoder_hidden_states": Split(1, stream="text")}
OF_THE_FIRST_SAMPLE: dict[str, None] = {"img_ids": None, "txt_ids": None}  # positions that hold for all samples


def double_then_single() -> dict[str, Any]:
    """Double-stream blocks, then modulated single-stream blocks that count their heads, then a modulated norm."""
    path = "single_transformer_blocks.*"
    single = {f"{path}.norm.linear": "colwise_gather_output", f"{path}.attn": "heads", **single_stream(path)}
    return {**double_stream("transformer_blocks.*"), **single, "norm_out.linear": "colwise_gather_output"}


def tokens_and_positions(**more: Cut) -> dict[str, Any]:
    """What is cut of a call that takes image and text as tokens, with their positions, and returns the image's."""
    positions = {"img_ids": Split(-2), "txt_ids": Split(-2, stream="text")}
    return {"": {**IMAGE_AND_TEXT, **positions, **more}, "proj_out": Gather(1)}
