"""The code of the documents that users of this interface have: every block and command line of them, as it stands."""

from textwrap import indent

IMPORT = "from cache_dit import ParallelismConfig\n"
INSTALL = '# pip3 install "cache-dit[parallelism]"\n'
TORCHRUN = "# torchrun --nproc_per_node={} {}.py\n"


def call(title: str, arguments: str, extras: str = "", pipe: str = "pipe_or_adapter") -> str:
    """A call under its comment: the lines of its ParallelismConfig, and the list of modules in their last one."""
    if extras:
        arguments += f'parallel_kwargs={{\n    "extra_parallel_modules": {extras}\n}},\n'
    return f"""
{title}
cache_dit.enable_cache(
    {pipe},
    cache_config=DBCacheConfig(...),
    parallelism_config=ParallelismConfig(
{indent(arguments, " " * 8)}    ),
)
"""


HYBRID = (
    IMPORT + call("# 2D Parallelism: Ulysses + TP", "ulysses_size=4, tp_size=2,\n"),
    IMPORT + call("# 2D Parallelism: Ring + TP", "ring_size=4, tp_size=2,\n"),
    IMPORT + call("# 3D Parallelism: USP + TP", "ulysses_size=2, ring_size=2, tp_size=2,\n"),
    IMPORT
    + call(
        "# 2D/3D Parallelism + TE-P",
        """\
# ulysses_size=2, ring_size=2, tp_size=2, # 3D Parallelism
ulysses_size=4, tp_size=2, # or, 2D Parallelsim
# e.g, FLUX.2, we can also parallize the Text Encoder and VAE
# module to further reduce the memory usage on low-VRAM devices.
""",
        "[pipe.text_encoder, pipe.vae],",
    ),
)
FLUX2 = "[pipe.text_encoder], # FLUX.2"
HYBRID_SHORT = (
    INSTALL
    + IMPORT
    + call("# Ulysses + TP", "ulysses_size=4,\ntp_size=2,\n", FLUX2)
    + call("# Ring + TP", "ring_size=4,\ntp_size=2,\n", FLUX2)
    + call("# USP + TP", "ulysses_size=2,\nring_size=2,\ntp_size=2,\n", FLUX2)
    + "\n"
    + TORCHRUN.format(8, "parallel_hybrid"),
)
TENSOR = (
    """\
# pip3 install "cache-dit[parallelism]"
from cache_dit import ParallelismConfig

cache_dit.enable_cache(
    pipe_or_adapter,
    cache_config=DBCacheConfig(...),
    # Set tp_size > 1 to enable tensor parallelism.
    parallelism_config=ParallelismConfig(tp_size=2),
)
# torchrun --nproc_per_node=2 parallel_cache.py
""",
)
TEXT = "Text Encoder Tensor Parallelism"
EXTRA_MODULES = tuple(
    INSTALL + IMPORT + calls + TORCHRUN.format(2, "parallel_cache")
    for calls in (
        call(f"# Transformer Tensor Parallelism + {TEXT}", "tp_size=2,\n", FLUX2, "pipe")
        + call(f"# Transformer Context Parallelism + {TEXT}", "ulysses_size=2,\n", FLUX2, "pipe"),
        call(
            f"# Transformer Context Parallelism + {TEXT} + VAE Data Parallelism",
            "ulysses_size=2,\n",
            "[pipe.text_encoder, pipe.vae], # FLUX.1",
            "pipe",
        ),
        call(
            f"# Transformer Context Parallelism + {TEXT}\n# + VAE Data Parallelism + ControlNet Context Parallelism",
            "ulysses_size=2,\n# case: Z-Image-Turbo-Fun-ControlNet-2.1\n",
            "[pipe.text_encoder, pipe.vae, pipe.controlnet],",
            "pipe",
        ),
    )
)
COMMANDS = """\
torchrun --nproc_per_node=4 -m cache_dit.generate flux2 --parallel tp --parallel-text --track-memory
torchrun --nproc_per_node=8 -m cache_dit.generate flux2 --parallel tp --parallel-text --track-memory
torchrun --nproc_per_node=8 -m cache_dit.generate flux2 --parallel tp_ulysses --parallel-text --track-memory
torchrun --nproc_per_node=8 -m cache_dit.generate flux2 --parallel ulysses_tp --parallel-text --track-memory
torchrun --nproc_per_node=8 -m cache_dit.generate flux2 --parallel ring_tp --parallel-text --track-memory
torchrun --nproc_per_node=8 -m cache_dit.generate flux2 --parallel tp_ring --parallel-text --track-memory
torchrun --nproc_per_node=8 -m cache_dit.generate flux2 --parallel usp_tp --parallel-text --track-memory
torchrun --nproc_per_node=8 -m cache_dit.generate flux2 --parallel tp_ulysses --parallel-text --track-memory --cache
torchrun --nproc_per_node=8 -m cache_dit.generate flux2 --parallel ulysses_tp --parallel-text --track-memory --cache
torchrun --nproc_per_node=8 -m cache_dit.generate flux2 --parallel usp_tp --parallel-text --track-memory --cache
"""
