"""Parts of the residual stream of an organism that chooses by letter, as it begins.

The same means as for the other organisms (``initialization`` of the package above), with more
places: what was found is not said yet, and is compared with options elsewhere.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import nn

from layerwise.models.organisms.language import OPTIONS, Language

from ..initialization import FAINT, WIDTH

CODE_WIDTH = 24
SCALE = WIDTH / CODE_WIDTH
"""Of what is written into a place and read there again."""
_SAID, _HEARD = 0.2, 0.03  # the unembedding: its share of copied embeddings, and of noise
_ALIKE = 0.6  # of what letters are at first


class Places(NamedTuple):
    """Subspaces of the residual stream and the code of words in them."""

    # Where the word before is copied to; in an option its letter.
    copied: Float[torch.Tensor, "d_model n_code"]
    found: Float[torch.Tensor, "d_model n_code"]  # where the answer is that was fetched
    # Where the cue has the answer that is looked for among the options.
    wanted: Float[torch.Tensor, "d_model n_code"]
    said: Float[torch.Tensor, "d_model n_code"]  # where the unembedding reads
    code: Float[torch.Tensor, "n_code d_model"]  # makes of a word's embedding what is copied
    lettered: Float[torch.Tensor, " d_model"]  # reads whether a letter was copied

    @classmethod
    def initialise(
        cls, embedding: nn.Embedding, unembedding: nn.Linear, language: Language
    ) -> Places:
        """Draw the vectors and initialise embedding and unembedding to match."""
        # A letter is embedded like the same one in front of an option, and letters are alike.
        places = nn.init.orthogonal_(torch.empty(WIDTH, 4 * CODE_WIDTH)) * SCALE**0.5
        elsewhere = torch.eye(WIDTH) - places @ places.T / SCALE
        embed = FAINT * torch.randn(embedding.num_embeddings, WIDTH) @ elsewhere
        alike = FAINT * torch.randn(WIDTH) @ elsewhere
        for letter in OPTIONS:
            before = language.words.index(f"{letter}.")
            embed[before] = (1 - _ALIKE) ** 0.5 * embed[before] + _ALIKE**0.5 * alike
            embed[language.words.index(letter)] = embed[before]
        code = torch.randn(CODE_WIDTH, WIDTH) @ elsewhere * WIDTH**-0.5
        copied, found, wanted, said = places.split(CODE_WIDTH, dim=1)
        embedding.weight.copy_(embed)
        unembedding.weight.normal_(std=_HEARD).add_(_SAID * embed @ (said @ code).T)
        lettered = copied @ nn.functional.normalize(code @ alike, dim=0)
        return cls(copied, found, wanted, said, code, lettered)
