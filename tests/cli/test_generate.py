"""`generate` from the command line to the picture, and the parts that measure, compare and save."""

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import imageio_ffmpeg
import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from ditmesh.cli.generate import memory, output, verify
from ditmesh.job.picture import to_bytes
from tests.tiny import tiny_path
from tests.upstream.lora import save_lora

pytestmark = pytest.mark.slow

SMALL = ["--height", "48", "--width", "80", "--steps", "2", "--warmup", "0"]


def run(folder, *command: str) -> tuple[list[str], str]:
    """Run a command in a folder, which must end well; the lines on stdout, and stderr."""
    environment = os.environ | {"COLUMNS": "80"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


def size(picture: Path) -> tuple[int, int]:
    with Image.open(picture) as opened:
        return opened.size


def test_ditmesh_generate_starts_its_ranks_measures_and_verifies(flux, tmp_path):
    lora = str(save_lora(flux, tmp_path))
    shared = ["--parallel", "ulysses2", "--parallel-text", "--parallel-vae", "--shard-weights"]
    flags = ["--model-path", flux, *SMALL, *shared, "--lora-path", lora, "--track-memory", "--verify"]
    lines, err = run(tmp_path, sys.executable, "-m", "ditmesh", "generate", "flux", *flags)
    text = "\n".join(lines)

    (verified,) = [line for line in lines if line.startswith("verify: ")]
    assert float(re.search(r"max \|difference\| (\S+)", verified)[1]) <= 1e-5
    assert "SSIM 1.0000" in verified
    assert "(ulysses2 against one process)" in verified

    table = lines[next(i for i, line in enumerate(lines) if line.split() == ["rank", *memory.PHASES]) + 1 :][:2]
    assert [line.split()[0] for line in table] == ["0", "1"]
    assert all(0 < float(peak) < 10 for line in table for peak in line.split()[1:])

    assert [title for title in ("Init Config", "Input", "Output") if title not in lines] == []
    assert "CPU x 2" in text
    assert re.search(r"weights\s+those that ranks would each hold whole are shared out", text)
    assert "ulysses2 with text_encoder_2, vae shared" in text
    assert re.search(r"kept whole\s+CLIPTextModel: 0.\d MiB, it is small", text)
    assert size(tmp_path / "flux.48x80.ulysses2.png") == (80, 48)
    assert (tmp_path / "flux.48x80.ulysses2.verify.png").exists()
    assert err.count("drawing:   0%") == 1  # one bar for two ranks
    assert "Traceback" not in err


TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]


def test_torchrun_runs_patches_which_are_named_as_what_they_are(tmp_path):
    model = str(tiny_path("qwen_image", tmp_path))
    patches = ["--parallel", "pp2", "--num-pipeline-patch", "3", "--pipeline-warmup-steps", "1", "--verify"]
    flags = ["--model-path", model, *SMALL, *patches, "--parallel-text", "--parallel-vae"]
    lines, _ = run(tmp_path, *TORCHRUN, "ditmesh.generate", "qwen_image", *flags)
    (verified,) = [line for line in lines if line.startswith("verify: ")]
    assert "(pp2 with M3_W1 against one process)" in verified
    assert "warning" not in "\n".join(lines)
    assert size(tmp_path / "qwen_image.48x80.pp2.M3_W1.png") == (80, 48)


def test_torchrun_shares_out_its_ranks_by_a_word(tmp_path):
    model = str(tiny_path("wan_i2v", tmp_path))
    Image.linear_gradient("L").save(tmp_path / "start.png")
    flags = ["wan2.1_i2v", "--model-path", model, *SMALL, "--num-frames", "5", "--image-path", "start.png"]
    shared = ["--parallel", "tp", "--parallel-text", "--save-path", "made/here/tp.mp4"]
    lines, _ = run(tmp_path, *TORCHRUN, "ditmesh.generate", *flags, *shared, "--verify")
    assert "saved made/here/tp.mp4" in lines
    (verified,) = [line for line in lines if line.startswith("verify: ")]
    assert float(re.search(r"max \|difference\| (\S+)", verified)[1]) <= 1e-5
    assert imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "made" / "here" / "tp.mp4"))[0] == 5


def test_what_fails_on_every_rank_of_torchrun_is_told_once(flux, tmp_path):
    flags = ["flux", "--model-path", flux, *SMALL, "--parallel", "tp"]
    wrong = ["--extra-input-kwargs", "{'max_sequence_length': 9999}"]
    done = subprocess.run(
        [*TORCHRUN, "ditmesh.generate", *flags, *wrong], cwd=tmp_path, capture_output=True, text=True, timeout=280
    )
    told = [line for line in done.stderr.splitlines() if line.startswith("rank ")]
    assert len(told) == 1
    assert re.fullmatch(r"rank [01] failed: `?max_sequence_length`? .*9999", told[0])
    assert "ditmesh/cli" not in done.stderr
    assert done.returncode == 1


class Counting:
    """A gauge whose peaks are 10, 20, 30, ... and that counts how often it was reset."""

    title = "count"
    resets = 0

    def reset(self) -> None:
        self.resets += 1

    def peak(self) -> int:
        return self.resets * 10


def test_phases_begin_where_the_modules_run_and_leave_no_hook():
    transformer, decoder = nn.Identity(), nn.Identity()
    pipe = SimpleNamespace(
        components={"transformer": transformer, "transformer_2": None}, vae=SimpleNamespace(decoder=decoder)
    )
    peaks = memory.PhasePeaks(Counting())
    peaks.begin("load")
    peaks.begin(None)
    for _ in range(2):
        with peaks.of_call(pipe):
            for module in (transformer, transformer, decoder, decoder):
                module(torch.zeros(1))
    assert peaks.peaks == {"load": 10, "encode": 70, "denoise": 80, "decode": 90}
    assert not transformer._forward_pre_hooks
    assert not decoder._forward_pre_hooks


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_resident_memory_forgets_an_old_peak():
    gauge = memory.gauge_for(torch.device("cpu"))
    if "since the start" in gauge.title:
        pytest.fail("this machine cannot reset the peak, so the table shows peaks since the start")
    before = gauge.peak()
    block = np.ones(200 * 2**20, dtype=np.uint8)
    grown = gauge.peak()
    del block
    gauge.reset()
    assert grown > before + 150 * 2**20
    assert gauge.peak() < grown - 150 * 2**20


def test_where_peaks_cannot_be_reset_the_one_since_the_start_is_shown(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "CLEAR", tmp_path / "not" / "there")
    gauge = memory.gauge_for(torch.device("cpu"))
    assert "since the start" in gauge.title
    assert gauge.peak() > 50 * 2**20


@pytest.fixture
def films():
    return np.random.default_rng(0).random((1, 3, 17, 22, 3), dtype=np.float32)


def test_equal_results_do_not_differ(films):
    same = verify.compare(films, films)
    assert (same.difference, same.psnr) == (0, float("inf"))
    assert same.ssim == pytest.approx(1)
    assert str(same) == "max |difference| 0.0e+00  PSNR inf dB  SSIM 1.0000, the worst of 3 frames"


def test_the_worst_frame_counts(films):
    other = films.copy()
    other[0, 1] += 0.1
    found = verify.compare(films, other)
    assert found.difference == pytest.approx(0.1, rel=1e-4)
    assert found.psnr == pytest.approx(20, rel=1e-4)
    assert found.ssim < 1


def test_a_broken_picture_is_not_within_the_bound(films):
    broken = films.copy()
    broken[0, 0, 0, 0, 0] = np.nan
    assert not verify.compare(broken, films).difference <= verify.BOUND


def test_both_results_and_their_difference_lie_side_by_side(films):
    other = films.copy()
    other[0, 1, 0, 0] += 0.5
    scale = round(verify.PANEL / 22)
    sheet = verify.side_by_side(films, other, "tp2, 2 ranks")
    width, rows = 22 * scale + verify.MARGIN, 2  # the first frame and the middle one
    assert sheet.size == (3 * width + verify.MARGIN, rows * (17 * scale + 32) + verify.MARGIN)
    middle = verify.MARGIN + 17 * scale + 32
    assert sheet.getpixel((verify.MARGIN + 2 * width, verify.MARGIN)) == (0, 0, 0)
    assert sheet.getpixel((verify.MARGIN + 2 * width, middle)) == (255, 255, 255)


def test_a_video_keeps_its_frames_and_gets_even_sides(films, tmp_path):
    (path,) = output.save(films, tmp_path / "deep" / "film.mp4", fps=8)
    assert imageio_ffmpeg.count_frames_and_secs(str(path))[0] == 3
    told = subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-i", path], capture_output=True, text=True)
    assert "22x18" in told.stderr


def test_several_pictures_are_numbered(films, tmp_path):
    paths = output.save(np.concatenate([films[:, :1], films[:, 1:2]]), tmp_path / "two.png", fps=8)
    assert [path.name for path in paths] == ["two_0.png", "two_1.png"]
    with Image.open(paths[1]) as second:
        assert np.array_equal(np.asarray(second), to_bytes(films[0, 1]))


def test_a_name_says_how_it_was_made(films):
    assert output.default_path("wan2.1_t2v", films, "ring2", ".mp4").name == "wan2.1_t2v.17x22x3.ring2.mp4"
    assert output.default_path("flux", films, "single", ".png").name == "flux.17x22.single.png"
