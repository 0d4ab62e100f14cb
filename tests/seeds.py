"""The code of the documents that users of this interface have: every block and command line of them, as it stands."""

HYBRID = (
    """\
from cache_dit import ParallelismConfig

# 2D Parallelism: Ulysses + TP
cache_dit.enable_cache(
    pipe_or_adapter,
    cache_config=DBCacheConfig(...),
    parallelism_config=ParallelismConfig(
        ulysses_size=4, tp_size=2,
    ),
)
""",
    """\
from cache_dit import ParallelismConfig

# 2D Parallelism: Ring + TP
cache_dit.enable_cache(
    pipe_or_adapter,
    cache_config=DBCacheConfig(...),
    parallelism_config=ParallelismConfig(
        ring_size=4, tp_size=2,
    ),
)
""",
    """\
from cache_dit import ParallelismConfig

# 3D Parallelism: USP + TP
cache_dit.enable_cache(
    pipe_or_adapter,
    cache_config=DBCacheConfig(...),
    parallelism_config=ParallelismConfig(
        ulysses_size=2, ring_size=2, tp_size=2,
    ),
)
""",
    """\
from cache_dit import ParallelismConfig

# 2D/3D Parallelism + TE-P
cache_dit.enable_cache(
    pipe_or_adapter,
    cache_config=DBCacheConfig(...),
    parallelism_config=ParallelismConfig(
        # ulysses_size=2, ring_size=2, tp_size=2, # 3D Parallelism
        ulysses_size=4, tp_size=2, # or, 2D Parallelsim
        # e.g, FLUX.2, we can also parallize the Text Encoder and VAE
        # module to further reduce the memory usage on low-VRAM devices.
        parallel_kwargs={
            "extra_parallel_modules": [pipe.text_encoder, pipe.vae],
        },
    ),
)
""",
)
HYBRID_SHORT = (
    """\
# pip3 install "cache-dit[parallelism]"
from cache_dit import ParallelismConfig

# Ulysses + TP
cache_dit.enable_cache(
    pipe_or_adapter,
    cache_config=DBCacheConfig(...),
    parallelism_config=ParallelismConfig(
        ulysses_size=4,
        tp_size=2,
        parallel_kwargs={
            "extra_parallel_modules": [pipe.text_encoder], # FLUX.2
        },
    ),
)

# Ring + TP
cache_dit.enable_cache(
    pipe_or_adapter,
    cache_config=DBCacheConfig(...),
    parallelism_config=ParallelismConfig(
        ring_size=4,
        tp_size=2,
        parallel_kwargs={
            "extra_parallel_modules": [pipe.text_encoder], # FLUX.2
        },
    ),
)

# USP + TP
cache_dit.enable_cache(
    pipe_or_adapter,
    cache_config=DBCacheConfig(...),
    parallelism_config=ParallelismConfig(
        ulysses_size=2,
        ring_size=2,
        tp_size=2,
        parallel_kwargs={
            "extra_parallel_modules": [pipe.text_encoder], # FLUX.2
        },
    ),
)

# torchrun --nproc_per_node=8 parallel_hybrid.py
""",
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
EXTRA_MODULES = (
    """\
# pip3 install "cache-dit[parallelism]"
from cache_dit import ParallelismConfig

# Transformer Tensor Parallelism + Text Encoder Tensor Parallelism
cache_dit.enable_cache(
    pipe,
    cache_config=DBCacheConfig(...),
    parallelism_config=ParallelismConfig(
        tp_size=2,
        parallel_kwargs={
            "extra_parallel_modules": [pipe.text_encoder], # FLUX.2
        },
    ),
)

# Transformer Context Parallelism + Text Encoder Tensor Parallelism
cache_dit.enable_cache(
    pipe,
    cache_config=DBCacheConfig(...),
    parallelism_config=ParallelismConfig(
        ulysses_size=2,
        parallel_kwargs={
            "extra_parallel_modules": [pipe.text_encoder], # FLUX.2
        },
    ),
)
# torchrun --nproc_per_node=2 parallel_cache.py
""",
    """\
# pip3 install "cache-dit[parallelism]"
from cache_dit import ParallelismConfig

# Transformer Context Parallelism + Text Encoder Tensor Parallelism + VAE Data Parallelism
cache_dit.enable_cache(
    pipe,
    cache_config=DBCacheConfig(...),
    parallelism_config=ParallelismConfig(
        ulysses_size=2,
        parallel_kwargs={
            "extra_parallel_modules": [pipe.text_encoder, pipe.vae], # FLUX.1
        },
    ),
)
# torchrun --nproc_per_node=2 parallel_cache.py
""",
    """\
# pip3 install "cache-dit[parallelism]"
from cache_dit import ParallelismConfig

# Transformer Context Parallelism + Text Encoder Tensor Parallelism
# + VAE Data Parallelism + ControlNet Context Parallelism
cache_dit.enable_cache(
    pipe,
    cache_config=DBCacheConfig(...),
    parallelism_config=ParallelismConfig(
        ulysses_size=2,
        # case: Z-Image-Turbo-Fun-ControlNet-2.1
        parallel_kwargs={
            "extra_parallel_modules": [pipe.text_encoder, pipe.vae, pipe.controlnet],
        },
    ),
)
# torchrun --nproc_per_node=2 parallel_cache.py
""",
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
