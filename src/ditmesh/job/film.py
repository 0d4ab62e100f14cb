"""A video as an MP4 file that says how it was made."""

import tempfile
import wave
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import imageio_ffmpeg  # pyright: ignore[reportMissingTypeStubs]
import numpy as np

from ditmesh.job.picture import as_json, to_bytes


def encode_film(film: np.ndarray, fps: int, sound: np.ndarray | None, rate: int, facts: Mapping[str, object]) -> bytes:
    """[frames, height, width, 3] in [0, 1], with sound [channels, samples] in [-1, 1] if there is any, as H.264.

    The colour has half the resolution, so sizes are even: the last row or column is repeated if need be.
    """
    frames = to_bytes(film)
    height, width = frames.shape[1:3]
    frames = np.pad(frames, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    size = frames.shape[2], frames.shape[1]
    with tempfile.TemporaryDirectory(prefix="ditmesh-") as folder:
        path, heard = Path(folder) / "film.mp4", dict[str, str]()
        if sound is not None:
            heard = {"audio_path": str(_save_sound(sound, rate, Path(folder))), "audio_codec": "aac"}
        told = ["-metadata", f"comment={as_json(facts)}"]
        write: Any = imageio_ffmpeg.write_frames  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]
        writer = write(str(path), size, fps=fps, quality=8, macro_block_size=1, output_params=told, **heard)
        try:
            writer.send(None)
            for frame in frames:
                writer.send(np.ascontiguousarray(frame))
        finally:
            writer.close()
        return path.read_bytes()


def _save_sound(sound: np.ndarray, rate: int, folder: Path) -> Path:
    path = folder / "sound.wav"
    with wave.open(str(path), "wb") as file:
        file.setnchannels(len(sound))
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((sound.T.clip(-1, 1) * (2**15 - 1)).round().astype("<i2").tobytes())
    return path
