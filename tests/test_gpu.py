"""What only a GPU can run: its attention kernels give the log-sum-exp that Ring merges by."""

import pytest
import torch

from ditmesh.parallel.context.ring import merge
from ditmesh.upstream.kernels import KERNELS, math
from tests.transformers import relative_error

pytestmark = pytest.mark.gpu
KINDS = [
    ("native", torch.float32, True),
    ("native", torch.bfloat16, False),
    ("native", torch.float64, True),
    ("_native_flash", torch.bfloat16, False),
    ("_native_efficient", torch.float32, True),
    ("_native_cudnn", torch.bfloat16, True),
    ("_native_math", torch.bfloat16, True),
]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-3, torch.bfloat16: 2e-2}


@pytest.mark.parametrize(("kernel", "dtype", "masked"), KINDS)
def test_parts_merge_to_the_whole(kernel: str, dtype: torch.dtype, masked: bool) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, 4, 77, 64, device="cuda", dtype=dtype)
    mask = torch.zeros(2, 1, 1, 77, device="cuda", dtype=dtype) if masked else None
    if mask is not None:
        mask[0, ..., 60:] = torch.finfo(dtype).min
    want, _ = math(q.double(), k.double(), v.double(), None if mask is None else mask.double(), None)
    cut = [slice(0, 50), slice(50, 77)]
    (out, lse), part = (
        KERNELS[kernel](q, k[:, :, keys], v[:, :, keys], None if mask is None else mask[..., keys], None)
        for keys in cut
    )
    got, _ = merge(out.to(lse.dtype), lse, *part)
    assert relative_error(got.double(), want) <= TOLERANCE[dtype]
