"""Write pictures and videos to files, under names that say how they were made."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ditmesh.job.film import encode_film
from ditmesh.job.picture import encode


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
            target.write_bytes(encode_film(frames, fps, sound, rate, facts or {}))
        else:
            target.write_bytes(encode(frames[0], target.suffix.lower(), facts or {}))
    return paths
