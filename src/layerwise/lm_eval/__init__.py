"""A model of layerwise in lm-evaluation-harness, intact or with a layer changed.

from lm_eval import simple_evaluate
from layerwise.lm_eval import LM
simple_evaluate(model=LM(model, layerwise.sweep.skip(11)), tasks=["arc_easy"])
"""

from __future__ import annotations

from typing import Any

from layerwise.errors import UserError
from layerwise.models import original_tokenizer
from layerwise.models.instance.kinds import Model, is_seq2seq
from layerwise.models.libraries.untrusted_tokenizer import try_texts
from layerwise.sweep import Generate, Generated, Intervention, LogLikelihood, Scored, intact, sweep

try:
    from lm_eval.api.model import TemplateLM
    from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
except ImportError as error:
    raise UserError(
        "lm-evaluation-harness is not installed: expected it beside layerwise; "
        "pip install 'layerwise[lm-eval]'."
    ) from error

_NEW_TOKENS = 256
"""As the harness has it where a task does not say."""


class LM(TemplateLM):
    """A loaded model as the harness asks it.

    Args:
        model: a decoder, from ``layerwise.load_model``.
        intervention: what is changed in every forward pass, such as ``sweep.skip(11)``; none if
            None. Changes that need a source run, as patches do, are refused by the sweep.

    Raises:
        UserError: for an encoder-decoder, or a task that samples its texts.
    """

    def __init__(self, model: Model, intervention: Intervention | None = None) -> None:
        super().__init__()
        if is_seq2seq(model):
            raise UserError(
                "The harness asks encoder-decoders in another way: expected a decoder; use "
                "layerwise's own tasks (--task lm-eval:NAME)."
            )
        self.model, self.intervention = model, intervention or intact()
        self.tokenizer: Any = original_tokenizer(model)

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text."""
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        """Token before a text without a context."""
        bos = self.tokenizer.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def max_length(self) -> int:
        """Tokens that the model takes."""
        return self.model.cfg.n_ctx

    @property
    def tokenizer_name(self) -> str:
        """For the harness's cache of requests."""
        return str(self.model.cfg.model_name).replace("/", "__")

    def apply_chat_template(
        self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True
    ) -> str:
        """Turns of a chat as one text."""
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **kwargs: Any
    ) -> list[int]:
        """Token ids; a text that begins with BOS gets no second one."""
        bos = self.tokenizer.bos_token
        special = add_special_tokens
        if special is None:
            special = not (bos and string.startswith(bos))
        try_texts(self.tokenizer, string)
        return self.tokenizer(string, add_special_tokens=special)["input_ids"]

    def _loglikelihood_tokens(self, requests: Any, **kwargs: Any) -> list[tuple[float, bool]]:
        asked = []
        for _, context, continuation in requests:
            tokens = [*context, *continuation][-(self.max_length + 1) :]
            n_given = max(1, len(tokens) - len(continuation))
            asked.append(LogLikelihood(tuple(tokens[:n_given]), tuple(tokens[n_given:])))
        return [
            (one.logprob, one.greedy)
            for one in self._sweep_requests(asked)
            if isinstance(one, Scored)
        ]

    def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, in windows as long as the model's context."""
        windows = [
            [
                (None, *make_disjoint_window(window))
                for window in get_rolling_token_windows(
                    token_list=self.tok_encode(request.args[0]),
                    prefix_token=self.prefix_token_id,
                    max_seq_len=self.max_length,
                    context_len=1,
                )
            ]
            for request in requests
        ]
        scored = iter(self._loglikelihood_tokens([one for each in windows for one in each]))
        return [sum(next(scored)[0] for _ in each) for each in windows]

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """Greedy texts, each up to the first of its stop strings."""
        asked = []
        for request in requests:
            context, given = request.args
            if given.get("do_sample") and given.get("temperature", 1.0) > 0:
                raise UserError(
                    "The task samples its texts, and layerwise writes the most likely one: "
                    "expected do_sample: false; set it in the task's generation_kwargs."
                )
            until = given.get("until") or []
            stop = (until,) if isinstance(until, str) else tuple(until)
            new = int(given.get("max_gen_toks", given.get("max_new_tokens", _NEW_TOKENS)))
            tokens = self.tok_encode(context)[-(self.max_length - new) :]
            asked.append(Generate(tuple(tokens), new, stop))
        return [one.text for one in self._sweep_requests(asked) if isinstance(one, Generated)]

    def _sweep_requests(self, requests: list[Any]) -> list[Any]:
        if not requests:
            return []
        swept = sweep(self.model, [self.intervention], requests, tokenizer=self.tokenizer)
        return swept.outcomes[0]
