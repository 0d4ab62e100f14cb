"""The list that `ditmesh generate list` prints."""

from rich.console import Console

from ditmesh.cli.examples import EXAMPLES
from ditmesh.job.example import IMAGE_MASK

WIDE = 112  # columns that an example's row needs with its model in it


def print_examples() -> None:
    """A row for each example; its model stands under it where the terminal is narrow."""
    console = Console(highlight=False)
    wide = console.width >= WIDE
    widths = (max(map(len, EXAMPLES)), max(len(example.size) for example in EXAMPLES.values()), 5, 4, len(IMAGE_MASK))

    def line(*cells: str) -> str:
        return "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, widths, strict=False)).rstrip()

    console.print(line("EXAMPLE", "SIZE", "STEPS", "CFG", "NEEDS") + ("   MODEL" if wide else ""), style="bold")
    for example in EXAMPLES.values():
        added = [f"+ {part.model}" for part in (example.lora, example.controlnet) if part]
        models = ["ships with ditmesh" if example.folder_variable is None else example.model, *added]
        guidance = "" if example.guidance is None else f"{example.guidance:g}"
        steps = "" if example.steps is None else str(example.steps)
        row = line(example.name, example.size, steps, guidance, example.input)
        console.print(f"{row:<{sum(widths) + 8}}  {' '.join(models)}" if wide else row, soft_wrap=True)
        for model in [] if wide else models:
            console.print(f"    {model}", style="dim", soft_wrap=True)
    console.print()
    console.print("NEEDS says what --image-path and --mask-image-path have to give.", style="dim")
    console.print("--model-path, or a variable such as FLUX_DIR, names a local copy of a model.", style="dim")
