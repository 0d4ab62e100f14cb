"""Every autoencoder on any number of ranks equals one process, for any number of rows."""

from contextlib import ExitStack
from typing import Any

import pytest
import torch
from diffusers.models import autoencoders
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from ditmesh.models import AUTOENCODERS
from ditmesh.parallel.vae.apply import apply_vae_parallel
from ditmesh.parallel.vae.bands import Bands, Window
from tests.parallel.vaes import CASES, TILES, build, latent, mesh, parallel, picture, work
from tests.ranks import Ranks

TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-10}


def sizes_of(name, batch=1):
    case = CASES[name]
    odd = 5 * case.scale + (case.scale - 1 if case.odd_rows else 0)
    encoded = [("encode", rows, batch) for rows in (4 * case.scale, odd, case.fewest * case.scale)]
    return encoded + [("decode", rows, batch) for rows in (4, 7, case.fewest)]


def check(ranks: Ranks, name, world, dtype, sizes, switch=""):
    """Every rank makes what one process makes, which is returned."""
    wanted = work(build(name, dtype, switch), name, sizes, dtype)
    for made in ranks.run(parallel, world, name, sizes, dtype, switch):
        for size, got, want in zip(sizes, made, wanted, strict=True):
            assert want.isfinite().all()
            assert want.std() > 1e-3
            assert got.shape == want.shape
            error = ((got - want).abs().max() / want.abs().max()).item()
            assert error <= TOLERANCE[dtype], (size, error)
    return wanted


@pytest.mark.matrix
@pytest.mark.parametrize("world", [2, 3, 4])
@pytest.mark.parametrize("name", CASES)
def test_ranks_equal_one_process(ranks, name, world):
    check(ranks, name, world, torch.float32, sizes_of(name))


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if case.float64])
def test_ranks_equal_one_process_in_float64(ranks, name):
    check(ranks, name, 3, torch.float64, sizes_of(name))


@pytest.mark.parametrize("switch", ["", "enable_slicing"])
@pytest.mark.parametrize("name", ["kl", "wan", "hunyuan_video", "cogvideox"])
def test_batches_equal_one_process(ranks, name, switch):
    check(ranks, name, 2, torch.float32, sizes_of(name, batch=2)[1::3], switch)


@pytest.mark.parametrize("name", TILES)
def test_tiles_equal_those_of_one_process(ranks, name):
    """Its tiles' rows are shared over the ranks, so the picture is that of one process that tiles."""
    case = CASES[name]
    sizes = [("decode", 9, 1), ("encode", 9 * case.scale, 1)]
    if name == "hunyuan_image":
        sizes.pop()  # its tiled_encode expects a video
    whole = work(build(name, torch.float32), name, sizes, torch.float32)
    for got, untiled in zip(check(ranks, name, 3, torch.float32, sizes, "enable_tiling"), whole, strict=True):
        assert not torch.allclose(got, untiled, atol=1e-3)


def is_restored(name: str) -> bool:
    """Whether undoing leaves the same modules and parameters, without hooks, and the same pictures to the bit."""
    vae, sizes = build(name, torch.float32), [("encode", 4 * CASES[name].scale, 1), ("decode", 4, 1)]
    before, wanted = [*vae.named_modules()], work(vae, name, sizes, torch.float32)
    parameters = [*vae.named_parameters()]
    with ExitStack() as undo:
        apply_vae_parallel(vae, mesh(), undo)
        assert [*vae.state_dict()] == [name for name, _ in vae.state_dict().items()]
        assert any(module._forward_hooks for module in vae.modules())
    return (
        all(
            name == was and module is old
            for (name, module), (was, old) in zip(vae.named_modules(), before, strict=True)
        )
        and all(p is old for (_, p), (_, old) in zip(vae.named_parameters(), parameters, strict=True))
        and not any(module._forward_hooks or module._forward_pre_hooks for module in vae.modules())
        and all(map(torch.equal, work(vae, name, sizes, torch.float32), wanted))
    )


@pytest.mark.parametrize("name", CASES)
def test_undo_gives_the_same_autoencoder_back(ranks, name):
    assert all(ranks.run(is_restored, 2, name))


def kinds_returned(name: str) -> list[str]:
    vae, x, z = build(name, torch.float32), picture(name, 8, torch.float32), latent(name, 4, torch.float32)
    with ExitStack() as undo:
        apply_vae_parallel(vae, mesh(), undo)
        encoded, decoded = vae.encode(x), vae.decode(z)
        kinds = [encoded, encoded.latent_dist, decoded, vae.encode(x, return_dict=False), vae.decode(z, False)]
        return [type(kind).__name__ for kind in kinds]


def test_what_pipelines_ask_for_comes_back_as_without_ranks(ranks):
    for kinds in ranks.run(kinds_returned, 2, "kl"):
        assert kinds == ["AutoencoderKLOutput", "DiagonalGaussianDistribution", "DecoderOutput", "tuple", "tuple"]


def largest_activations(name: str, rows: int, vae: Any = None) -> list[int]:
    """Elements of the largest tensor that a layer of the encoder and one of the decoder makes."""
    vae = vae or build(name, torch.float32)
    largest = []
    for half, verb in ((vae.encoder, "encode"), (vae.decoder, "decode")):
        sizes: list[int] = []
        for layer in half.modules():
            if not list(layer.children()):
                layer.register_forward_hook(
                    lambda module, args, x, sizes=sizes: sizes.append(0 if x.is_meta else x.numel())
                )
        work(vae, name, [(verb, rows * (CASES[name].scale if verb == "encode" else 1), 1)], torch.float32)
        largest.append(max(sizes))
    return largest


def largest_on_ranks(name: str, rows: int) -> list[int]:
    vae = build(name, torch.float32)
    with ExitStack() as undo:
        apply_vae_parallel(vae, mesh(), undo)
        return largest_activations(name, rows, vae)


@pytest.mark.parametrize("name", ["kl_deep", "wan", "hunyuan_image", "ltx2"])
def test_the_largest_activation_falls_with_the_ranks(ranks, name):
    rows, overlap = 16, 1.25  # a convolution also holds the rows next to its band
    alone = max(largest_activations(name, rows))
    for world in (2, 4):
        assert max(max(held) for held in ranks.run(largest_on_ranks, world, name, rows)) <= alone / world * overlap


OF_DIFFUSERS = [name for name, kind in vars(autoencoders).items() if isinstance(kind, type)]
# Not listed, but made of the parts of one that is.
MADE_OF_KNOWN_PARTS = {"VQModel", "ConsistencyDecoderVAE"}
CONFIGS = {"AutoencoderKLHunyuanImage": CASES["hunyuan_image"].config}
CONFIGS |= {"RFD4ProteinaAutoencoder": dict.fromkeys(("atom37_mask", "allowed_residue_types"), [[True] * 37] * 147)}


def shared_or_refused(world: int) -> dict[str, str]:
    """Every class of diffusers, on meta: why it is refused, or nothing."""
    told = {}
    for name in OF_DIFFUSERS:
        with torch.device("meta"):
            vae = vars(autoencoders)[name](**CONFIGS.get(name, {}))
        with ExitStack() as undo:
            try:
                apply_vae_parallel(vae, mesh(), undo)
                told[name] = ""
            except ValueError as error:
                told[name] = str(error)
    return told


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
def test_every_class_of_diffusers_is_shared_or_refused_by_the_name_of_a_part(ranks):
    told = ranks.run(shared_or_refused, 2, 2)[0]
    assert {name for name, why in told.items() if not why} == set(AUTOENCODERS) | MADE_OF_KNOWN_PARTS
    assert all(name in why for name, why in told.items() if why)
    assert "AsymmetricAutoencoderKL.decoder is a MaskConditionDecoder" in told["AsymmetricAutoencoderKL"]
    assert "is a KVAECachedEncoder3D, of which it is not known" in told["AutoencoderKLKVAEVideo"]


class Mixer(nn.Module):
    """A block of a class nobody has read."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.SiLU()


def refused(change: str) -> str:
    """The error that an autoencoder changed so meets, which is to leave no hook behind."""
    vae = build("ltx" if change == "noise" else "kl", torch.float32)
    if change == "circular":
        vae.decoder.conv_in.padding_mode = "circular"
    elif change == "noise":
        vae.decoder.mid_block.resnets[0].per_channel_scale1 = nn.Parameter(torch.zeros(16, 1, 1))
    elif change == "pool":
        vae.decoder.conv_act = nn.AvgPool2d(3, 1, 1)
    elif change == "block":
        vae.decoder.conv_act = Mixer()
    elif change == "unpadded":
        vae.decoder.conv_in = nn.Conv2d(4, 16, 3)
    with ExitStack() as undo:
        try:
            apply_vae_parallel(nn.Linear(2, 2) if change == "linear" else vae, mesh(), undo)
        except ValueError as error:
            assert not any(module._forward_hooks for module in vae.modules())
            return str(error)
    return "not refused"


def refusal(ranks, change):
    return ranks.run(refused, 2, change)[0]


def test_what_cannot_be_exact_is_refused_by_name(ranks):
    assert "AutoencoderKL.decoder.conv_in pads with the opposite edge" in refusal(ranks, "circular")
    assert "adds random noise to every pixel" in refusal(ranks, "noise")
    assert "conv_act is a AvgPool2d, of which it is not known whether it mixes rows" in refusal(ranks, "pool")
    assert "is a Mixer, of which it is not known" in refusal(ranks, "block")
    assert "is a convolution padded elsewhere" in refusal(ranks, "unpadded")
    assert "neither an encoder nor a decoder" in refusal(ranks, "linear")


@given(
    rows=st.integers(1, 60),
    degree=st.integers(1, 6),
    grain=st.sampled_from([1, 2, 4]),
    window=st.sampled_from(
        [Window(3, 1, 1, 1), Window(5, 1, 2, 2), Window(3, 2, 0, 1), Window(3, 2, 1, 1), Window(2, 2, 0, 0)]
    ),
)
def test_bands_cover_every_row_once_and_see_what_they_need(rows, degree, grain, window):
    """A convolution over numbered rows, band by band, reaches the rows that the whole one reaches."""
    bands = Bands.cut(rows, degree, grain * window.stride)
    out = bands.through(window)
    assert bands.edges[0] == 0
    assert bands.edges[-1] == rows
    assert out.edges[-1] == max(window.outputs(rows), 0) or rows < window.stride
    for band, (start, stop) in enumerate(bands.needed(window)):
        assert start % window.stride == 0
        assert start <= bands[band][0]
        assert stop >= bands[band][1]
        for row in range(*out[band]):
            reached = range(row * window.stride - window.before, row * window.stride - window.before + window.kernel)
            assert {i for i in reached if 0 <= i < rows} <= set(range(start, stop))
