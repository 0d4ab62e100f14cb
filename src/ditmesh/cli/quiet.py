"""Leave the terminal to rank 0, and there to one progress bar at a time."""

import logging
import warnings

from transformers.utils import logging as transformers_logging


def quiet_imports() -> None:
    """Call before diffusers is imported: it imports what has transformers warn of packages that are optional."""
    transformers_logging.set_verbosity_error()
    for name in ("bitsandbytes", "torchao", "torch.utils._pytree", "diffusers.quantizers.torchao"):
        logging.getLogger(name).setLevel(logging.ERROR)


def keep_quiet(first: bool) -> None:
    """Silence every rank but the first, and on that one the bars inside the bar of loading."""
    from diffusers.utils import logging as diffusers_logging

    transformers_logging.disable_progress_bar()
    if first:
        transformers_logging.set_verbosity_warning()
    else:
        diffusers_logging.disable_progress_bar()
        diffusers_logging.set_verbosity_error()
        warnings.simplefilter("ignore")
