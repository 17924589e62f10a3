"""What a receiver in an encoder-decoder reads, and says, if one sender alone writes otherwise.

All sublayers' outputs are those of the run that is patched, and nothing but norms is computed
anew: in a post-norm model (BART, Marian) the streams themselves pass through them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import nn

from layerwise.analyses.patching.hooked_patches import Hook, answer_logits
from layerwise.ground.layer_names import ENCODER
from layerwise.models.kinds import inputs_of
from layerwise.models.seq2seq import Seq2SeqModel
from layerwise.models.seq2seq.parts import BlockParts
from layerwise.sweep.requests import Tokens

from .components import BEGINNING, CROSS_HEAD, HEAD, MLP, OF_MEMORY, Receiver, Sender

_HELD = ("hook_embed", "hook_attn_out", "hook_cross_attn_out", "hook_mlp_out", "hook_final")
_OUTPUTS = {HEAD: "hook_attn_out", CROSS_HEAD: "hook_cross_attn_out", MLP: "hook_mlp_out"}


class HeldStreams:
    """The streams of one run of an encoder-decoder, to be read with one sender changed."""

    def __init__(self, model: Seq2SeqModel, tokens: Tokens) -> None:
        """Run the model on a prompt, and what its decoder begins with."""
        self.model, self._tokens = model, tokens
        _, self._held = model.run_with_cache(
            *inputs_of(model, [tokens]), names_filter=lambda name: name.endswith(_HELD)
        )

    def at(
        self,
        receiver: Receiver,
        senders: Sequence[Sender],
        flows: Float[torch.Tensor, "sender pos d_model"],
    ) -> Float[torch.Tensor, "sender pos d_model"]:
        """The stream that a receiver reads, before any norm of its own, for each sender."""

        def written(place: tuple[int, int]) -> torch.Tensor:
            here = torch.tensor([sender.writes_at == place for sender in senders])
            return flows * here.to(flows)[:, None, None]

        stream = self._held[f"{receiver.stack}.hook_embed"] + written(BEGINNING)
        for place, output, norm in self._sublayers(receiver.stack):
            if place >= receiver.reads_at:
                break
            total = stream + self._held[output] + written(place)
            stream = norm(total) if self.model.cfg.post_norm else total
        return stream

    def read(
        self, receiver: Receiver, streams: Float[torch.Tensor, "sender pos d_model"]
    ) -> Float[torch.Tensor, "sender pos *out"]:
        """What a receiver in a block makes of such streams; of a head, with all beside it."""
        assert receiver.layer is not None
        block, letter = _block(self.model, receiver.layer), receiver.reads[-1]
        attention, norm = block.attn, block.attn_norm
        if receiver.reads == "mlp":
            norm = block.mlp_norm
        elif receiver.reads.startswith("cross"):
            assert block.cross_attn is not None
            assert block.cross_norm is not None
            attention, norm = block.cross_attn, block.cross_norm
        if receiver.reads in OF_MEMORY:
            read = self.model.parts.encoder.final_norm(streams)
        else:
            read = streams if self.model.cfg.post_norm else norm(streams)
        if receiver.reads == "mlp":
            return block.mlp(read)
        linear: nn.Linear = getattr(attention, letter)
        return linear(read).unflatten(-1, (attention.n_heads, attention.d_head))

    def output_of(self, receiver: Receiver) -> str:
        """The hook that holds what a receiver makes of the stream."""
        assert receiver.layer is not None
        return self.model.hook_name(receiver.layer, receiver.site)

    def said(self, hook: Hook, n: int) -> Float[torch.Tensor, "row d_vocab"]:
        """Log-probabilities where the answer begins, in n runs under a hook.

        The encoder runs again only if the hook is there.
        """
        if hook[0].startswith(ENCODER):
            return answer_logits(self.model, [self._tokens] * n, [hook]).double().log_softmax(-1)
        _, begins = inputs_of(self.model, [self._tokens] * n)
        memory = self._held[f"{ENCODER}.hook_final"].expand(n, -1, -1)
        with self.model.hooks(fwd_hooks=[hook]):
            return self.model.decode(begins, memory)[:, -1].double().log_softmax(-1)

    def _sublayers(self, stack: str) -> Iterator[tuple[tuple[int, int], str, nn.Module]]:
        """Where each sublayer writes, its output's hook, and the norm that belongs to it."""
        n_encoder, n_layers = self.model.cfg.n_encoder_layers, self.model.cfg.n_layers
        for layer in range(n_encoder) if stack == ENCODER else range(n_encoder, n_layers):
            block = _block(self.model, layer)
            norms = {HEAD: block.attn_norm, CROSS_HEAD: block.cross_norm, MLP: block.mlp_norm}
            for site, norm in norms.items():
                if norm is not None:
                    place = Sender(layer, None, site).writes_at
                    yield place, self.model.hook_name(layer, _OUTPUTS[site]), norm


def head_projection(model: Seq2SeqModel, sender: Sender) -> Float[torch.Tensor, "d_head d_model"]:
    """The output projection of one head of self-attention or cross-attention."""
    assert sender.head is not None
    block = _block(model, sender.layer)
    attention = block.cross_attn if sender.site == CROSS_HEAD else block.attn
    assert attention is not None
    of_head = slice(sender.head * attention.d_head, (sender.head + 1) * attention.d_head)
    return attention.out.weight[:, of_head].T


def _block(model: Seq2SeqModel, layer: int) -> BlockParts:
    return [*model.parts.encoder.blocks, *model.parts.decoder.blocks][layer]
