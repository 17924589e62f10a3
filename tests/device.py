"""Device of the tests' models: the processor, or what ``LAYERWISE_TEST_DEVICE`` says.

    python tests/device.py

says whether the suite's core can be run on a GPU, and what it needs if not.
"""

from __future__ import annotations

import os
import sys

import torch

DEVICE = os.environ.get("LAYERWISE_TEST_DEVICE", "cpu")


def missing_requirement() -> str | None:
    """Sentence on what is missing for a run on a GPU; None if nothing is."""
    if torch.version.cuda is None:
        return (
            f"make test-cuda needs a GPU of NVIDIA's and torch built for it, and torch "
            f"{torch.__version__} is built without CUDA: install such a build into the environment "
            "(https://pytorch.org/get-started/locally) on a machine with a GPU, and run it there."
        )
    if not torch.cuda.is_available():
        return (
            "make test-cuda needs a GPU of NVIDIA's, and torch finds none (or no driver for CUDA "
            f"{torch.version.cuda}): run it on a machine where nvidia-smi lists one."
        )
    return None


if __name__ == "__main__":
    sys.exit(missing_requirement())
