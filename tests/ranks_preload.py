"""What every rank needs, imported once before the ranks are forked."""

import diffusers
import peft  # noqa: F401
import pytest  # noqa: F401 - what a rank runs is in files of tests
import torch
import torch.distributed

import ditmesh.api  # noqa: F401
from tests import tiny, transformers  # noqa: F401

torch.set_num_threads(1)
torch.set_grad_enabled(False)
diffusers.utils.logging.set_verbosity_error()
# Compiling imports hundreds of modules the first time, and some transformers compile their attention.
torch.compile(torch.sin, backend="eager")(torch.ones(1))
torch.compiler.reset()
