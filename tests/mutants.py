"""Check that the engine's tests catch faults: each is put into a copy of the package.

    python tests/mutants.py [FAULT ...]

Prints which test caught each fault. Ends with 1 if one survives, or if the unchanged copy fails.
How that is done is told in ``faults``.
"""

from __future__ import annotations

import sys

from faults import Fault, judge_all

# Not the tests that measure memory or time or need real weights: they are slow, not about numbers,
# and on a busy machine one that fails by itself would be taken for a fault that was caught.
NOT_ABOUT_NUMBERS = ("test_peak_memory.py",)
TESTS = (
    "tests/sweep",
    *(f"--ignore=tests/sweep/{name}" for name in NOT_ABOUT_NUMBERS),
    "-m",
    "not smollm2",
)

FAULTS = [
    # What attends to what.
    Fault(
        "a key too many",
        "plans/trie.py",
        "mask = torch.arange(n_key) < sees[..., None]",
        "mask = torch.arange(n_key) <= sees[..., None]",
    ),
    Fault(
        "own token not seen",
        "plans/trie.py",
        "sees = tuple(range(len(above) + 1, len(keys) + 1))",
        "sees = tuple(max(1, n) for n in range(len(above), len(keys)))",
    ),
    Fault(
        "different sources share tokens",
        "plans/trie.py",
        "self._roots.setdefault(key, {})",
        "self._roots.setdefault(None, {})",
    ),
    Fault(
        "attention scale",
        "packed/packed_block.py",
        "self.scale = 1.0 / float(self.attn.attn_scale)",
        "self.scale = 1.0 / cfg.d_model**0.5",
    ),
    Fault(
        "a patched branch misses a key of the trunk",
        "packed/layout.py",
        "outside = [keys[s & ~i] for",
        "outside = [keys[s & ~i][1:] for",
    ),
    Fault(
        "a sink is left out of prompts",
        "packed/attention.py",
        "self.scoring.merge_with_sinks([part], self.group)",
        "part.out",
        ("tests/sweep/decoder",),
    ),
    Fault(
        "a sink is left out of what is patched late",
        "packed/attention.py",
        "self.scoring.merge_with_sinks(parts, self.group)",
        "ScoreModifiers(1.0).merge_with_sinks(parts, self.group)",
        ("tests/sweep/decoder",),
    ),
    Fault(
        "a sink is left out of new tokens",
        "packed/attention.py",
        "scoring.merge_with_sinks(parts, group)",
        "merge_partial(parts)",
        ("tests/sweep/decoder",),
    ),
    Fault(
        "a sink is another head's",
        "packed/attention.py",
        "unflatten(0, (-1, group)).repeat_interleave(n_query, 1)",
        "unflatten(0, (-1, group)).repeat(1, n_query)",
        ("tests/sweep/decoder",),
    ),
    # Positions.
    Fault(
        "learned position shifted by one",
        "walk/stack.py",
        "for numbers in (trie.tokens, trie.positions)",
        "for numbers in (trie.tokens, [position + 1 for position in trie.positions])",
    ),
    Fault(
        "rotary position of one token",
        "packed/layout.py",
        "positions[index].to(device),",
        "positions[index].clamp(min=1).to(device),",
    ),
    Fault(
        "position of new tokens shifted by one",
        "decoding/decode.py",
        "known = np.minimum(positions, ",
        "known = np.minimum(positions + 1, ",
    ),
    # Branches.
    Fault(
        "branch opened a layer late",
        "walk/engine.py",
        "branches[group.open].first_layer == layer",
        "min(branches[group.open].first_layer + 1, self.plan.n_layers - 1) == layer",
    ),
    Fault(
        "branch leaves the wrong parent",
        "walk/engine.py",
        "left = self.trunk[0] if parent is None else streams[parent]",
        "left = self.trunk[0] if parent is None else streams[max(0, parent - 1)]",
    ),
    Fault(
        "zero and mean taken for equal",
        "changes/edits.py",
        "return self, id(self.given_object)",
        "return self",
    ),
    Fault(
        "mean for the first branch only",
        "changes/layer_edits.py",
        "mask[row] = True if where is None else where",
        "mask[0] = True if where is None else where",
    ),
    Fault(
        "parallel MLP reads what attention wrote",
        "packed/packed_block.py",
        "source = resid_pre if self.cfg.parallel_attn_mlp else resid_mid",
        "source = resid_mid",
    ),
    Fault(
        "parallel MLP after its attention, unchanged block",
        "packed/packed_block.py",
        "            normed = self.norm_2(resid)\n"
        "            add_product(resid, z, self.w_out.T, bias)\n",
        "            add_product(resid, z, self.w_out.T, bias)\n"
        "            normed = self.norm_2(resid)\n",
    ),
    Fault(
        "parallel MLP, begun inside the block",
        "packed/packed_block.py",
        "if self.cfg.parallel_attn_mlp or not changed:",
        "if not changed:",
    ),
    # Patches.
    Fault(
        "patch position from the sequence's end",
        "changes/edits.py",
        "pos = self.pos % n_context",
        "pos = self.pos % n_sequence",
    ),
    Fault(
        "patch on the wrong head",
        "changes/layer_edits.py",
        "torch.tensor(heads).to(every))",
        "(torch.tensor(heads).to(every) + 1) % len(every))",
    ),
    Fault(
        "patched token not carried",
        "plans/walk_plan.py",
        "changed.update(path[first:])",
        "changed.update(path[first + 1 :])",
    ),
    # What is read.
    Fault(
        "last layer gives the token before",
        "packed/layout.py",
        "None if whole else torch.searchsorted(index, leaving).to(device),",
        "None if whole else (torch.searchsorted(index, leaving) - 1).clamp(min=0).to(device),",
    ),
    Fault(
        "normaliser of another row",
        "walk/readout.py",
        "log_normaliser(logits)[rows]",
        "log_normaliser(logits)[rows.clamp(min=1) - 1]",
    ),
    Fault(
        "a tie settled the other way",
        "walk/readout.py",
        "logits.argmax(dim=-1)",
        "logits.shape[-1] - 1 - logits.flip(-1).argmax(dim=-1)",
    ),
    # Decoding.
    Fault(
        "stale keys behind a text are attended to",
        "packed/attention.py",
        "<= layout.index[..., None]",
        "<= layout.index.amax(dim=-1, keepdim=True)[..., None]",
    ),
    Fault(
        "refused draft token taken over",
        "decoding/decode.py",
        "draft[i] != token or",
        "(i > 0 and draft[i] != token) or",
    ),
    Fault(
        "a finished text goes on with its draft",
        "decoding/decode.py",
        "draft[i] != token or self.stopper.stops(job.tokens, job.generate)",
        "draft[i] != token",
    ),
    Fault(
        "slot reused without its prompt",
        "decoding/decode.py",
        "        if new:\n            self._copy_prompts(new)",
        "        if new and not staying:\n            self._copy_prompts(new)",
    ),
    Fault(
        "finished row keeps its neighbour's slot",
        "decoding/decode.py",
        "self.free.append(job.slot)",
        "self.free.append((job.slot + 1) % self.capacity)",
    ),
    Fault(
        "shared beginning a token short",
        "decoding/decode_step.py",
        "tokens = slice(begin.start, begin.start + begin.length)",
        "tokens = slice(begin.start, begin.start + max(1, begin.length - 1))",
    ),
    Fault(
        "shared beginning a token long",
        "decoding/decode_step.py",
        "tokens = slice(begin.start, begin.start + begin.length)",
        "tokens = slice(begin.start, begin.start + begin.length + 1)",
    ),
    Fault(
        "scores of shared keys not scaled",
        "packed/attention.py",
        "torch.matmul(queries * scale, ",
        "torch.matmul(queries, ",
    ),
    Fault(
        "rows that were computed as one keep no keys",
        "decoding/decode_step.py",
        "            if own is not None:\n",
        "            if own is not None and layer % 2:\n",
    ),
    Fault(
        "different prompts taken for one text",
        "decoding/decode.py",
        "(job.request, *job.tokens[:-1], -1, *new)",
        "(*job.tokens[:-1], -1, *new)",
    ),
    Fault(
        "a branch begun inside a block taken for the trunk",
        "decoding/decode_step.py",
        "state = batch.state[layer, ",
        "state = batch.sources[layer, ",
    ),
    Fault(
        "keys kept by another branch",
        "walk/engine.py",
        "return 0 if inside else number",
        "return 0 if inside else max(number - 1, min(number, 1))",
    ),
    Fault(
        "skip in the prompt only",
        "decoding/decode_step.py",
        "b is not None and b.idle(layer) for b in branches",
        "False for b in branches",
    ),
    Fault(
        "zero and mean in the prompt only",
        "decoding/decode_step.py",
        "if edit.site in sites and edit.position is None",
        "if edit.site in sites and (edit.resamples or edit.adds)",
    ),
    # Sources, tables and noise.
    Fault(
        "behind the prompt the source goes on from its start",
        "changes/edits.py",
        "min(pos, n_context - 1)",
        "pos",
    ),
    Fault(
        "sources are counted from the start",
        "changes/edits.py",
        "yield pos, source_position(pos, n_context, n_source)",
        "yield pos, min(pos, n_source - 1)",
    ),
    Fault(
        "texts go on with another prompt's source",
        "decoding/decode_step.py",
        "[self.rows[row].request for row in rows]",
        "[self.rows[rows[0]].request for row in rows]",
    ),
    Fault(
        "noise put in the activation's place",
        "changes/layer_edits.py",
        "            value = activation + value",
        "            value = value + 0 * activation",
    ),
    Fault(
        "noise of the position before",
        "changes/edits.py",
        "value[positions % len(value)]",
        "value[(positions - 1) % len(value)]",
    ),
    Fault(
        "means by position end a position early",
        "changes/edits.py",
        "positions.clamp(max=len(value) - 1)",
        "positions.clamp(max=max(0, len(value) - 2))",
    ),
    Fault(
        "a source's own tokens are seen by what follows the prompt",
        "plans/trie.py",
        "segment.keys[: max(sees)]",
        "segment.keys",
    ),
    Fault(
        "the MLP does not notice a changed middle",
        "packed/packed_block.py",
        '("z", "attn_out", "resid_mid")',
        '("z", "attn_out")',
    ),
    Fault(
        "model's own block keeps keys a place too early",
        "packed/hooked_block.py",
        "layout.own.keys[layout.slots, :, positions] = ",
        "layout.own.keys[layout.slots, :, positions - 1] = ",
    ),
    Fault(
        "a window one token too wide, in prompts",
        "packed/layout.py",
        "seen = r.mask & (apart < window)",
        "seen = r.mask & (apart <= window)",
    ),
    Fault(
        "a window one token too wide, at a text's own keys",
        "packed/attention.py",
        "seen &= layout.index[..., None] - places < scoring.window",
        "seen &= layout.index[..., None] - places <= scoring.window",
    ),
    Fault(
        "shared beginnings are seen beyond the window",
        "packed/attention.py",
        "hidden = layout.positions[shared.rows][..., None] - places >= window",
        "hidden = layout.positions[shared.rows][..., None] - places >= layout.longest",
    ),
    Fault(
        "a soft-cap is left out where keys lie in two parts",
        "packed/attention.py",
        "attend_part(folded, k, v, self.scale, split.own_bias, self.cap)",
        "attend_part(folded, k, v, self.scale, split.own_bias)",
    ),
    # Cutting up.
    Fault(
        "a large walk's last branches are left out",
        "walk/engine_run.py",
        "start in range(0, len(resid), at_once)",
        "start in range(0, max(1, len(resid) - 1), at_once)",
    ),
    # Two stacks.
    *(
        Fault(f"two stacks: {name}", file, old, new, ("tests/sweep/seq2seq",))
        for name, file, old, new in (
            (
                "a branch of the encoder reads the intact memory",
                "plans/walk_plan.py",
                "return self.followed_branch(branch, self.n_encoder - 1) if self.n_encoder else 0",
                "return 0",
            ),
            (
                "a branch does not begin where it leaves another",
                "walk/engine.py",
                "left = self.trunk[0] if parent is None else streams[parent]",
                "left = self.trunk[0]",
            ),
            (
                "keys of a branch before it opens",
                "plans/walk_plan.py",
                "layer < self.branches[branch].first_layer",
                "layer < self.n_encoder",
            ),
            (
                "a skipped layer replaces nothing",
                "walk/engine.py",
                'into[rows] = edits.apply_to("resid_post", leaving)',
                "into[rows] = leaving",
            ),
            (
                "decoder tokens look ahead",
                "packed/stack_block.py",
                "ahead = causal and n_query > 1",
                "ahead = False",
            ),
            (
                "relative positions of later queries",
                "packed/stack_block.py",
                "queries = keys[n_key - n_query :]",
                "queries = keys[:n_query]",
            ),
            (
                "relative positions of written tokens",
                "packed/attention.py",
                "scoring.relative.position_bias(layout.index[:, 0], places)",
                "scoring.relative.position_bias(layout.index[:, 0] * 0, places)",
            ),
            (
                "all texts read the intact memory",
                "decoding/decode.py",
                "at = torch.tensor(memories, device=device)[:, None]",
                "at = 0 * torch.tensor(memories, device=device)[:, None]",
            ),
            (
                "texts look behind the end of their input",
                "packed/stack_block.py",
                "bias = mask_to_bias(places < layout.lengths[:, None], queries)",
                "bias = mask_to_bias(places <= layout.lengths[:, None], queries)",
            ),
            (
                "different sources share an input",
                "plans/packing.py",
                "key, source = share_key(request), request.source",
                "key, source = None, request.source",
            ),
            (
                "the values' bias left out where a memory is read",
                "packed/stack_block.py",
                "return z if cross.v.bias is None else",
                "return z if True else",
            ),
            (
                "memories mixed by the keys' matrix",
                "packed/stack_block.py",
                '"bthm,hdm->bthd", mixed, values',
                '"bthm,hdm->bthd", mixed, keys',
            ),
            (
                "tokens that stand in order taken from the start",
                "packed/layout.py",
                "return slice(first, after) if",
                "return slice(0, after - first) if",
            ),
            (
                "branches read each other's memories",
                "walk/engine.py",
                "outputs = self.encoder_outputs[span(memories)]",
                "outputs = self.encoder_outputs[: len(memories)]",
            ),
            (
                "cross-attention forgets its norm",
                "packed/stack_block.py",
                "compute(x if self.post_norm else norm(x))",
                "compute(x)",
            ),
        )
    ),
    # Other weights.
    *(
        Fault(f"other weights: {name}", file, old, new, ("tests/test_transplant_branches.py",))
        for name, file, old, new in (
            (
                "a branch runs the model's own block",
                "walk/engine.py",
                "runner = self.layer_runner(self.layer, weights)",
                "runner = self.runners[self.layer]",
            ),
            (
                "new tokens run through the model's own block",
                "decoding/decode_step.py",
                "block = runner if weights is None else batch.walk.layer_runner(layer, weights)",
                "block = runner",
            ),
            (
                "equal layers of two models taken for one change",
                "changes/edits.py",
                "return self, id(self.given_object)",
                "return self",
            ),
            (
                "new tokens are embedded by the model",
                "decoding/decode.py",
                "resid[rows] = embedded[rows]",
                "pass",
            ),
            (
                "new tokens are read by the model's unembedding",
                "decoding/decode.py",
                "apart = self.batch.group_by_weights(self.rows, model.cfg.n_layers, END)",
                "apart = {None: np.arange(len(resid))}",
            ),
            (
                "a branch behind all layers reads another's stream",
                "plans/walk_plan.py",
                "if self.intact or self.opens_at_end else 0",
                "if self.intact else 0",
            ),
            (
                "two stacks: a branch looks with the model's own keys",
                "walk/engine.py",
                "return self.looks[weights].select_members(",
                "return self.looks[min(self.looks, key=lambda w: w is not None)].select_members(",
            ),
            (
                "two stacks: texts look with the model's own keys",
                "decoding/decode.py",
                "look = walk.looked_at[layer].get(weights)",
                "look = walk.looked_at[layer].get(None)",
            ),
            (
                "two stacks: the decoder embeds by the model",
                "walk/engine.py",
                "embedded = self.trunk if weights is None else",
                "embedded = self.trunk if True else",
            ),
            (
                "two stacks: the encoder ends with the model's norm",
                "walk/engine.py",
                "self.encoder_outputs[1 + row] = norm(streams[1 + row : 2 + row])[0]",
                "pass",
            ),
        )
    ),
]


if __name__ == "__main__":
    sys.exit(judge_all(FAULTS, sys.argv[1:], within="sweep", tests=TESTS))
