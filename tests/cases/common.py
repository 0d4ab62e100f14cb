"""What the tiny transformers have in common."""

import torch
from torch import Tensor

HEADS, HEAD_DIM, TEXT_DIM = 8, 8, 24


def positions(side: tuple[int, int], axes: int) -> Tensor:
    """Token positions of a picture, [height * width, axes], rows and columns in axes 1 and 2."""
    ids = torch.zeros(*side, axes)
    ids[..., 1] += torch.arange(side[0])[:, None]
    ids[..., 2] += torch.arange(side[1])[None]
    return ids.view(-1, axes)


def text_mask(batch: int, text: int) -> Tensor:
    """A padding mask [batch, text], true where a token is real: each sample pads another number of tokens."""
    return torch.arange(text)[None] < torch.tensor([text - 1 - 3 * i for i in range(batch)])[:, None]
