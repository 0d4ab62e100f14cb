"""Compare what a layout drew with what one process draws, in numbers and side by side."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from skimage.metrics import structural_similarity

from ditmesh.job.picture import to_bytes

PANEL = 256  # pixels: small pictures are enlarged to about this
MARGIN, LABEL_HEIGHT, LABEL_SIZE = 8, 24, 14
# A lossless layout in float32 stays within 1e-5; beyond this it is no rounding.
BOUND = 1e-4


@dataclass(frozen=True)
class Comparison:
    """How far apart two results are; of several frames, the worst one counts.

    Attributes:
        difference: the largest |difference| of a value in [0, 1].
        psnr: peak signal-to-noise ratio in dB, infinite for equal results.
        ssim: structural similarity, 1 for equal results.
        sound: the largest |difference| of the soundtracks, None without one.
    """

    difference: float
    psnr: float
    ssim: float
    frames: int
    sound: float | None = None

    @property
    def largest(self) -> float:
        """The largest |difference| of all; not a number if any is not."""
        return float(np.maximum(self.difference, self.sound or 0.0))

    def __str__(self) -> str:
        worst = f", the worst of {self.frames} frames" if self.frames > 1 else ""
        heard = "" if self.sound is None else f"; of the sound {self.sound:.1e}"
        return f"max |difference| {self.difference:.1e}  PSNR {self.psnr:.1f} dB  SSIM {self.ssim:.4f}{worst}{heard}"


def compare(
    ours: np.ndarray,
    reference: np.ndarray,
    our_sound: np.ndarray | None = None,
    reference_sound: np.ndarray | None = None,
) -> Comparison:
    """Compare two results of shape [batch, frames, height, width, channels] with values in [0, 1], and their sound."""
    frames = ours.reshape(-1, *ours.shape[2:]).astype(np.float64)
    references = reference.reshape(-1, *reference.shape[2:]).astype(np.float64)
    pairs = list(zip(frames, references, strict=True))
    return Comparison(
        difference=float(np.abs(frames - references).max()),
        psnr=min(psnr(a, b) for a, b in pairs),
        ssim=min(ssim(a, b) for a, b in pairs),
        frames=len(pairs),
        sound=None
        if our_sound is None or reference_sound is None
        else float(np.abs(our_sound.astype(np.float64) - reference_sound).max()),
    )


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """10 log10(1 / mean squared difference), in dB."""
    error = float(np.square(a - b).mean())
    return float("inf") if error == 0 else -10 * float(np.log10(error))


def ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al. 2004, by scikit-image; the window is 7 pixels, or what a smaller picture allows."""
    window = min(7, *a.shape[:2])
    window -= 1 - window % 2  # an odd number
    similarity: Any = structural_similarity(a, b, data_range=1.0, channel_axis=-1, win_size=window)
    return float(similarity)


def side_by_side(ours: np.ndarray, reference: np.ndarray, label: str) -> Image.Image:
    """One row for the first frame, and for a video one for the middle: ours, the reference, their difference."""
    ours, reference = ours[0, ..., :3], reference[0, ..., :3]  # without transparency
    rows = [0] if len(ours) == 1 else [0, len(ours) // 2]
    difference = np.abs(ours - reference)
    largest = float(difference[rows].max())
    labels = [label, "one process", f"|difference| x {1 / largest:.1g}" if largest > 0 else "no difference"]
    shown = [to_bytes(ours), to_bytes(reference), to_bytes(difference / largest if largest > 0 else difference)]
    height, width = ours.shape[1:3]
    scale = max(1, round(PANEL / max(height, width)))
    height, width = height * scale, width * scale
    line = height + LABEL_HEIGHT + MARGIN
    sheet = Image.new("RGB", (3 * (width + MARGIN) + MARGIN, len(rows) * line + MARGIN), "white")
    draw = ImageDraw.Draw(sheet)
    for row, frame in enumerate(rows):
        for column, (text, frames) in enumerate(zip(labels, shown, strict=True)):
            left, top = MARGIN + column * (width + MARGIN), MARGIN + row * line
            panel = Image.fromarray(frames[frame]).resize((width, height), Image.Resampling.NEAREST)
            sheet.paste(panel, (left, top))
            text += f", frame {frame}" if len(ours) > 1 else ""
            draw.text((left, top + height + 4), text, fill="black", font=ImageFont.load_default(LABEL_SIZE))
    return sheet
