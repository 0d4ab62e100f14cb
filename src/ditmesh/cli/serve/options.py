"""The flags of `ditmesh serve`: those of `ditmesh generate` that say how a model is run, and its own."""

from dataclasses import dataclass, field, fields
from pathlib import Path

from ditmesh.cli.flags import argument, count, option, record, switch
from ditmesh.cli.generate.options import Options

WHERE, WHO, QUEUE, REPLICAS = "Where it listens", "Who may ask, and for what", "Queue and files", "Replicas"
# Of one result: what it is drawn from and saved as, and how a run is measured.
OF_ONE_RESULT = {
    "example", "prompt", "negative_prompt", "skip_negative_prompt", "num_frames", "fps", "seed", "extra_input_kwargs",
    "save_path", "image_path", "mask_image_path", "input_height", "input_width", "model_path", "cache_summary",
    "warmup", "warmup_steps", "warmup_prompt", "warmup_seed", "repeat", "track_memory", "verify",
}  # fmt: skip
SHARED = [
    (f.name, f.type, field(default=f.default, metadata=f.metadata))
    for f in fields(Options)
    if f.name not in OF_ONE_RESULT
]
ENGINES = ("local",)

Text = str | None
Count = int | None


@dataclass(frozen=True)
class ServeOptions(record("Shared", SHARED)):
    """The flags as given; None where one was not."""

    model: str = argument("An example (`ditmesh generate list`), a folder or a hub id.", "MODEL")

    host: str = option(WHERE, "Address (127.0.0.1).", "--host ADDRESS", default="127.0.0.1")
    port: int = count(WHERE, "Port (8000); 0 for any that is free.", "--port N", low=0, default=8000)

    api_key: Text = option(WHO, "What clients have to know.", "--api-key KEY")
    api_key_file: Path | None = option(WHO, "A file that holds it.", "--api-key-file FILE")
    insecure: bool = switch(WHO, "Let others ask without a key.", "--insecure")
    allow_url_inputs: bool = switch(WHO, "Fetch pictures from public URLs for clients.", "--allow-url-inputs")
    lora_dir: Path | None = option(WHO, "LoRA weights that requests may name: its *.safetensors.", "--lora-dir DIR")
    max_pixels: int = count(WHO, "Pixels of a picture at most (4096 x 4096).", "--max-pixels N", default=4096 * 4096)
    max_body: int = count(WHO, "MiB of a request at most (64).", "--max-body N", default=64)

    max_queue: int = count(QUEUE, "Pictures that may wait (256).", "--max-queue N", default=256)
    data_dir: Path = option(
        QUEUE, "Folder for jobs and files (./ditmesh-data).", "--data-dir DIR", default=Path("ditmesh-data")
    )
    keep_hours: int = count(QUEUE, "Hours that they are kept (168).", "--keep-hours N", default=168)
    patience: int = count(
        QUEUE, "Seconds that a stopping server gives to what is being drawn (30).", "--patience N", low=0, default=30
    )

    replicas: Text = option(REPLICAS, "How many (1), or MIN..MAX.", "--replicas N")
    engine: str = option(REPLICAS, "Where replicas run: local, on this machine.", "--engine NAME", default="local")
