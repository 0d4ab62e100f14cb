"""Plans of families: what several sheets say alike, and no model outside them."""

from ditmesh.spec import Attention, Cut, Gather, Split, Style, double_stream, single_stream

IMAGE_AND_TEXT: dict[str | int, Cut] = {"hidden_states": Split(1), "encoder_hidden_states": Split(1, stream="text")}
OF_THE_FIRST_SAMPLE: dict[str, None] = {"img_ids": None, "txt_ids": None}  # positions that hold for all samples


def double_then_single() -> dict[str, Style]:
    """Double-stream blocks, then modulated single-stream blocks that count their heads, then a modulated norm."""
    path = "single_transformer_blocks.*"
    single = {f"{path}.norm.linear": "colwise_gather_output", f"{path}.attn": "heads", **single_stream(path)}
    return {**double_stream("transformer_blocks.*"), **single, "norm_out.linear": "colwise_gather_output"}


def tokens_and_positions(**more: Cut) -> dict[str, Cut | dict[str | int, Cut]]:
    """What is cut of a call that takes image and text as tokens, with their positions, and returns the image's."""
    positions = {"img_ids": Split(-2), "txt_ids": Split(-2, stream="text")}
    return {"": {**IMAGE_AND_TEXT, **positions, **more}, "proj_out": Gather(1)}


def self_and_cross(path: str, processor: str, streams: tuple[str, ...] = ("image",)) -> dict[str, Attention]:
    """Attention of the streams to themselves, then to text that every rank holds whole."""
    return {f"{path}.attn1": Attention(processor, streams), f"{path}.attn2": Attention(processor)}


def joint_in_both(processor: str, streams: tuple[str, ...]) -> dict[str, Attention]:
    """Joint attention in double-stream and single-stream blocks."""
    return dict.fromkeys(
        ("transformer_blocks.*.attn", "single_transformer_blocks.*.attn"), Attention(processor, streams)
    )
