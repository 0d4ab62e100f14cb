"""The two tokenizers of the demonstration model: both know the words of its captions as one token each."""

from __future__ import annotations

import random
import string
from collections import Counter
from itertools import pairwise

from tokenizers.pre_tokenizers import ByteLevel
from transformers import CLIPTokenizer, T5Tokenizer

from demo.shapes import caption, split

CAPTION_TOKENS = 32  # the T5 sequence length the model is trained with
WORD_END = "</w>"


def caption_words() -> list[str]:
    """All words of the captions, as they are written, in alphabetical order; no punctuation."""
    rng = random.Random(0)
    captions = [caption(scene, rng) for scene in split()[0] for _ in range(4)]
    return sorted({word for text in captions for word in text.replace(",", " ").replace(".", " ").split()})


def byte_pairs(words: list[str]) -> list[tuple[str, str]]:
    """The merges, most frequent first, that make one token of each word."""
    spelt = [[*word[:-1], word[-1] + WORD_END] for word in words]
    merges = []
    while counts := Counter(pair for word in spelt for pair in pairwise(word)):
        pair = min(counts, key=lambda pair: (-counts[pair], pair))
        merges.append(pair)
        spelt = [merged(word, pair) for word in spelt]
    return merges


def merged(pieces: list[str], pair: tuple[str, str]) -> list[str]:
    joined: list[str] = []
    for piece in pieces:
        if joined and (joined[-1], piece) == pair:
            joined[-1] += piece
        else:
            joined.append(piece)
    return joined


def new_clip_tokenizer() -> CLIPTokenizer:
    """Byte pairs learnt from the captions; a word they lack falls apart into smaller pieces."""
    merges = byte_pairs(sorted({word.lower() for word in caption_words()}))
    characters = sorted(ByteLevel.alphabet())
    pieces = [*characters, *(c + WORD_END for c in characters), *(a + b for a, b in merges)]
    pieces = [*dict.fromkeys(pieces), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=merges, model_max_length=77)


def new_t5_tokenizer() -> T5Tokenizer:
    """All words of the captions, and single characters at a price, for the words they lack."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    known = [("▁" + word, -1.0) for word in caption_words()]
    characters = [(character, -10.0) for character in "▁" + string.ascii_letters + string.digits + ",.-'"]
    return T5Tokenizer(vocab=special + known + characters, extra_ids=0, model_max_length=512)
