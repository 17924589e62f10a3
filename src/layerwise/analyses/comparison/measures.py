"""What is compared between runs: in which order it is shown, and what it is counted in.

Sentences, figures and tables of a comparison all go by this; nothing is computed here.
"""

from __future__ import annotations

# Centres of mass and critical sets are told of each run, and not compared.
MEASURES = (
    "accuracy", "half-effect depth", "prediction depth", "early third", "middle third",
    "late third",
)  # fmt: skip
AXES = ("computation", "encoder", "decoder")
# What a difference is counted in, and how many of these are 1.
UNITS = {
    "accuracy": ("accuracy (points)", 100),
    "depth": ("relative depth", 1),
    "share lost": ("share lost per layer (points)", 100),
    "critical set": ("critical layers (% of all)", 100),
}


def scale_of(family: str) -> int:
    """How many of its units make 1."""
    return UNITS[family][1]


def digits_of(family: str) -> int:
    """How many decimals are shown."""
    return 3 if scale_of(family) == 1 else 0
