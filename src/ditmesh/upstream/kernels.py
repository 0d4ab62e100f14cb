"""One rank's attention, returning the log-sum-exp that lets attention over parts of the keys be merged.

Tensors are [B, H, S, D] (batch, heads, sequence, head dim); a mask is additive and broadcasts to [B, H, S_q, S_k].
"""

from collections.abc import Callable

import torch
from torch import Tensor

aten = torch.ops.aten
Kernel = Callable[[Tensor, Tensor, Tensor, Tensor | None, float | None], tuple[Tensor, Tensor]]


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The dtype partial results are merged in: float32, or float64 for float64."""
    return torch.promote_types(dtype, torch.float32)


def math(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None) -> tuple[Tensor, Tensor]:
    """Attention by its definition: any device, dtype, head dim and mask, at the price of the whole score matrix."""
    dtype = accumulator(q.dtype)
    scores = q.to(dtype) @ k.to(dtype).transpose(-1, -2) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if mask is not None:
        scores = scores + mask
    lse = scores.logsumexp(-1)
    return ((scores - lse.unsqueeze(-1)).exp() @ v.to(dtype)).to(q.dtype), lse


def flash(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None) -> tuple[Tensor, Tensor]:
    """FlashAttention as torch ships it: on CPU any dtype and masks; on CUDA 16-bit floats and no mask."""
    if q.device.type == "cpu":
        return aten._scaled_dot_product_flash_attention_for_cpu(q, k, v, 0.0, False, attn_mask=mask, scale=scale)
    if mask is not None:
        raise ValueError(
            "attention backend '_native_flash' takes no mask on CUDA; use 'native' or '_native_efficient'."
        )
    return aten._scaled_dot_product_flash_attention(q, k, v, 0.0, False, scale=scale)[:2]


def efficient(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None) -> tuple[Tensor, Tensor]:
    """Memory-efficient attention (CUDA): float32 and 16-bit floats, with masks."""
    out, lse = aten._scaled_dot_product_efficient_attention(q, k, v, _aligned(mask, q, k), True, scale=scale)[:2]
    return out, lse[..., : q.shape[2]]  # the kernel rounds the rows of its log-sum-exp up


def cudnn(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None) -> tuple[Tensor, Tensor]:
    """cuDNN's fused attention (CUDA): 16-bit floats, with masks."""
    out, lse = aten._scaled_dot_product_cudnn_attention(q, k, v, _aligned(mask, q, k), True, scale=scale)[:2]
    return out, lse.reshape(q.shape[:3])


def native(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float | None) -> tuple[Tensor, Tensor]:
    """The best of torch's kernels for these tensors, as its ``scaled_dot_product_attention`` would choose."""
    if q.device.type == "cpu":
        return flash(q, k, v, mask, scale)
    if q.dtype == torch.float64 or q.shape[-1] % 8:
        return math(q, k, v, mask, scale)
    half = q.dtype in (torch.float16, torch.bfloat16)
    return (flash if half and mask is None else efficient)(q, k, v, mask, scale)


KERNELS: dict[str, Kernel] = {
    "native": native,
    "_native_flash": flash,
    "_native_efficient": efficient,
    "_native_cudnn": cudnn,
    "_native_math": math,
}
CUDA_ONLY = ("_native_efficient", "_native_cudnn")
CUDA_HALF = ("_native_flash", "_native_cudnn")  # which there take 16-bit floats alone


def kernels_of(device_type: str) -> dict[str, str]:
    """The kernels that a kind of device may have, each with the name of a dtype that it takes."""
    if device_type == "cpu":
        return {name: "float32" for name in KERNELS if name not in CUDA_ONLY}
    return {name: "bfloat16" if name in CUDA_HALF else "float32" for name in KERNELS}


def is_there(name: str, dtype: torch.dtype, device: torch.device) -> bool:
    """Whether a device has a kernel: older GPUs, and those of other makers, do not have each of torch's."""
    asked = {
        "_native_flash": torch.backends.cuda.can_use_flash_attention,
        "_native_efficient": torch.backends.cuda.can_use_efficient_attention,
        "_native_cudnn": torch.backends.cuda.can_use_cudnn_attention,
    }
    if name not in asked or device.type == "cpu":
        return True
    q = torch.zeros(1, 4, 16, 16, dtype=dtype, device=device)
    return asked[name](torch.backends.cuda.SDPAParams(q, q, q, None, 0.0, False, False))


def _aligned(mask: Tensor | None, q: Tensor, k: Tensor) -> Tensor | None:
    """The mask at full shape, in memory whose rows start at multiples of 16 elements, as the CUDA kernels ask."""
    if mask is None:
        return None
    keys = k.shape[2]
    room = mask.new_zeros((*mask.shape[:-1], -(-keys // 16) * 16))[..., :keys]
    room.copy_(mask)
    return room.expand(q.shape[0], q.shape[1], q.shape[2], keys)
