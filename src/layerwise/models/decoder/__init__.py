"""Decoders over their own Hugging Face modules, under TransformerLens's names of sites."""

from .model import DecoderConfig as DecoderConfig
from .model import DecoderModel as DecoderModel
