"""Encoder-decoder models with hook points at every site, over Hugging Face's own modules."""

from .model import Seq2SeqConfig as Seq2SeqConfig
from .model import Seq2SeqModel as Seq2SeqModel
