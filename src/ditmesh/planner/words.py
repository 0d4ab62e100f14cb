"""What stands for a tokenizer where there are no files of one: as many tokens as a text is likely to have."""

from collections.abc import Sequence
from typing import Any, cast

import torch
from transformers import BatchEncoding

CHARACTERS = 4  # of English text in a token, about
TEMPLATE = 16  # tokens that a chat's template adds, about
PATCH, MERGED, CHANNELS = 14, 2, 3 * 2  # of pictures in language models: pixels of a patch, patches of a token, numbers
PICTURE = 151655  # what stands for a part of a picture among the tokens


class Words:
    """Makes tokens of texts, as tokenizers are called; the tokens mean nothing."""

    padding_side = "right"
    pad_token_id, bos_token_id, eos_token_id, unk_token_id = 0, 1, 2, 3
    pad_token, bos_token, eos_token = "<pad>", "<s>", "</s>"

    def __init__(self, model_max_length: int = 512):
        self.model_max_length = model_max_length
        self.tokenizer = self  # processors have one
        self.added_tokens_encoder: dict[str, int] = {}

    def __len__(self) -> int:
        return 1 << 10

    def __call__(
        self,
        text: str | Sequence[str] | None = None,
        *_: Any,
        padding: bool | str = False,
        max_length: int | None = None,
        truncation: bool = False,
        return_tensors: str | None = None,
        images: Any = None,
        **__: Any,
    ) -> BatchEncoding:
        texts = [text] if isinstance(text, str) else list(text or [""])
        longest = max_length or self.model_max_length
        seen = _pictures(images)
        pictures = seen["pixel_values"].shape[0] // MERGED**2 // len(texts) if seen else 0
        lengths = [len(one) // CHARACTERS + 2 + pictures for one in texts]
        lengths = [min(length, longest) for length in lengths] if truncation or padding == "max_length" else lengths
        room = longest if padding == "max_length" else max(lengths)
        words = [[*[PICTURE] * pictures, *range(4, 3 + length - pictures), self.eos_token_id] for length in lengths]
        ids = [[*one, *[self.pad_token_id] * (room - len(one))] for one in words]
        mask = [[1] * length + [0] * (room - length) for length in lengths]
        single = isinstance(text, str) and return_tensors is None
        made: Any = {"input_ids": ids[0] if single else ids, "attention_mask": mask[0] if single else mask}
        if return_tensors is not None:
            made = {name: torch.tensor(rows) for name, rows in made.items()}
        return BatchEncoding({**made, **seen, "length": torch.tensor(lengths)})

    def tokenize(self, text: str) -> list[str]:
        """Pieces of a text."""
        return [text[at : at + CHARACTERS] for at in range(0, len(text), CHARACTERS)]

    def apply_chat_template(self, conversation: Any, tokenize: bool = True, **kwargs: Any) -> Any:
        """The texts of a conversation, or of several, in one each."""
        is_one = not isinstance(conversation[0], list)
        texts = [_text(one) + " " * CHARACTERS * TEMPLATE for one in ([conversation] if is_one else conversation)]
        if not tokenize:
            return texts[0] if is_one else texts
        kwargs |= kwargs.pop("tokenizer_kwargs", {}) | kwargs.pop("processor_kwargs", {})
        encoded = self(texts, **kwargs)
        return encoded if kwargs.get("return_dict", True) else encoded["input_ids"]

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """Any."""
        return self.unk_token_id if isinstance(tokens, str) else [self.unk_token_id] * len(tokens)

    def encode(self, text: str, **kwargs: Any) -> Any:
        """Tokens alone."""
        return self(text, **kwargs)["input_ids"]

    def batch_decode(self, ids: Any, **_: Any) -> list[str]:
        """As many texts."""
        return ["" for _ in ids]


def _pictures(images: Any) -> dict[str, torch.Tensor]:
    """What a language model is given of pictures: patches of two equal frames, and how many there are of each."""
    several = images if isinstance(images, list) else [] if images is None else [images]
    if not several:
        return {}
    block = PATCH * MERGED
    sizes = [(one.height, one.width) if "mode" in dir(one) else tuple(one.shape[-2:]) for one in several]
    grids = [[1, *(max(round(side / block), 1) * MERGED for side in size)] for size in sizes]
    patches = sum(rows * columns for _, rows, columns in grids)
    return {"pixel_values": torch.zeros(patches, CHANNELS * PATCH**2), "image_grid_thw": torch.tensor(grids)}


def _text(conversation: Any) -> str:
    """All that is said in one."""
    found = ""
    for message in cast("list[Any]", conversation):
        content = message["content"]
        found += content if isinstance(content, str) else "".join(part.get("text") or "" for part in content)
    return found
