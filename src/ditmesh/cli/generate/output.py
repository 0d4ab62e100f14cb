"""Write pictures and videos to files, under names that say how they were made."""

import tempfile
import wave
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

import imageio_ffmpeg
import numpy as np

from ditmesh.job.picture import as_json, encode, to_bytes


def default_path(example: str, films: np.ndarray, layout: str, suffix: str) -> Path:
    """EXAMPLE.HEIGHTxWIDTH[xFRAMES].LAYOUT.SUFFIX, of what was really drawn."""
    frames, height, width = films.shape[1:4]
    size = f"{height}x{width}" + (f"x{frames}" if suffix == ".mp4" else "")
    return Path(f"{example}.{size}.{layout}{suffix}")


def save(
    films: np.ndarray,
    path: Path,
    fps: int,
    sound: np.ndarray | None = None,
    rate: int = 0,
    facts: Mapping[str, object] | None = None,
) -> list[Path]:
    """Write each of [batch, frames, height, width, channels] in [0, 1]; return the files, numbered if several.

    A film gets the sound [channels, samples] in [-1, 1], at ``rate`` samples a second, if there is one. The facts say
    inside each file how it was made.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    many = len(films) > 1
    paths = [path.with_stem(f"{path.stem}_{i}") if many else path for i in range(len(films))]
    for frames, target in zip(films, paths, strict=True):
        if target.suffix.lower() == ".mp4":
            _save_video(to_bytes(frames), target, fps, sound, rate, facts or {})
        else:
            target.write_bytes(encode(frames[0], target.suffix.lower(), facts or {}))
    return paths


def _save_video(
    frames: np.ndarray, path: Path, fps: int, sound: np.ndarray | None, rate: int, facts: Mapping[str, object]
) -> None:
    # H.264 halves the colour's resolution, so it wants even sizes: the last row or column is repeated if need be.
    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    size = frames.shape[2], frames.shape[1]
    with ExitStack() as closing:
        heard = {}
        if sound is not None:
            folder = closing.enter_context(tempfile.TemporaryDirectory(prefix="ditmesh-"))
            heard = {"audio_path": str(_save_sound(sound, rate, Path(folder))), "audio_codec": "aac"}
        told = ["-metadata", f"comment={as_json(facts)}"]
        writer = imageio_ffmpeg.write_frames(
            str(path), size, fps=fps, quality=8, macro_block_size=1, output_params=told, **heard
        )
        closing.callback(writer.close)
        writer.send(None)
        for frame in frames:
            writer.send(np.ascontiguousarray(frame))


def _save_sound(sound: np.ndarray, rate: int, folder: Path) -> Path:
    path = folder / "sound.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(sound))
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((sound.T.clip(-1, 1) * (2**15 - 1)).round().astype("<i2").tobytes())
    return path
