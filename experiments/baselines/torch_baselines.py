"""Baselines in torch: `transformers` with the same weights, as published systems use it.

Importing this file needs torch; the benchmarks go without where it is not installed.
"""

import tempfile
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import transformers

from hiperjax.models.transformer import Params, TransformerConfig
from hiperjax.models.weights import save_params
from hiperjax.types import Trajectory


def load_model(params: Params, config: TransformerConfig) -> Any:
    """The model in torch, by way of a checkpoint folder."""
    with tempfile.TemporaryDirectory() as folder:
        save_params(params, config, folder)
        return transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


class Generate:
    """Replies by `generate`: left padding to the longest prompt of the batch, in lock step."""

    def __init__(
        self, params: Params, config: TransformerConfig, *, stop_ids: tuple[int, ...], reply: int
    ):
        self.model = load_model(params, config).eval()
        self.stop_ids, self.limit = stop_ids, reply

    def reply(self, prompts: Sequence[np.ndarray], *, temperature: float) -> list[np.ndarray]:
        """One reply per prompt; temperature 0 is greedy."""
        width = max(map(len, prompts))
        tokens = torch.zeros((len(prompts), width), dtype=torch.long)
        mask = torch.zeros_like(tokens)
        for i, prompt in enumerate(prompts):
            tokens[i, width - len(prompt) :] = torch.as_tensor(np.asarray(prompt, np.int64))
            mask[i, width - len(prompt) :] = 1
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
        with torch.inference_mode():
            out = self.model.generate(
                tokens,
                attention_mask=mask,
                max_new_tokens=self.limit,
                eos_token_id=list(self.stop_ids),
                pad_token_id=0,
                **(sampling if temperature else {"do_sample": False}),
            )[:, width:].numpy()
        return [self._cut(row) for row in out]

    def _cut(self, row: np.ndarray) -> np.ndarray:
        stops = np.flatnonzero(np.isin(row, self.stop_ids))
        return row[: stops[0] + 1] if len(stops) else row

    def replay(self, episodes: Sequence[Trajectory], *, batch: int, temperature: float) -> None:
        """Reply to every turn's prompt, batch by batch of episodes, all turns together; an episode
        that has ended keeps its place until the last one has, as there."""
        for first in range(0, len(episodes), batch):
            part = episodes[first : first + batch]
            for t in range(max(len(x.turns) for x in part)):
                prompts = [x.turns[min(t, len(x.turns) - 1)].prompt_ids for x in part]
                self.reply(prompts, temperature=temperature)


class TorchUpdate:
    """The same PPO step in torch: padded rows, logits everywhere, AdamW, three passes before.

    `rows` is a `PaddedRows` of numpy arrays, `micro` how many of them run at once.
    """

    def __init__(
        self,
        params: Params,
        config: TransformerConfig,
        rows: Any,
        *,
        micro: int,
        temperature: float,
        learning_rate: float,
        beta2: float,
        weight_decay: float,
        grad_clip: float,
        **options: float,
    ):
        self.model = load_model(params, config).train()
        self.reference = load_model(params, config).eval()
        self.rows = type(rows)(*(torch.as_tensor(np.asarray(x)) for x in rows))
        self.rows = self.rows._replace(
            **{name: getattr(self.rows, name).long() for name in ("tokens", "reply_at", "value_at")}
        )
        self.micro, self.temperature, self.options = micro, temperature, options
        self.grad_clip = grad_clip
        self.optimizer = torch.optim.AdamW(
            self.model.parameters(),
            lr=learning_rate,
            betas=(0.9, beta2),
            weight_decay=weight_decay,
        )

    def logprobs(self, model: Any, at: Any) -> tuple[Any, Any]:
        """Log-prob and entropy at the reply tokens of some rows."""
        tokens, start = self.rows.tokens[at], self.rows.reply_at[at]
        every = torch.log_softmax(model(tokens).logits / self.temperature, dim=-1)
        entropy = -(every.exp() * every).sum(-1)
        chosen = every[:, :-1].gather(-1, tokens[:, 1:, None])[..., 0]
        places = start[:, None] - 1 + torch.arange(self.rows.mask.shape[1])
        places = places.clamp(max=chosen.shape[1] - 1)
        return chosen.gather(1, places), entropy.gather(1, places)

    def _parts(self) -> Any:
        return torch.arange(len(self.rows.tokens)).split(self.micro)

    def sweep(self) -> None:
        """The three passes: old log-probs, values, reference."""
        with torch.inference_mode():
            for model in (self.model, self.reference):
                for at in self._parts():
                    self.logprobs(model, at)
            for at in self._parts():
                hidden = self.model.model(self.rows.tokens[at]).last_hidden_state
                hidden.gather(1, self.rows.value_at[at][..., None].expand(-1, -1, hidden.shape[-1]))

    def gradient(self, index: Any) -> float:
        """Add up the gradient of one minibatch; returns its loss."""
        index = torch.as_tensor(np.array(index)).long()
        count, total = self.rows.mask[index].sum().clamp(min=1), 0.0
        for at in index.split(self.micro):
            loss = self._loss(at) / count
            loss.backward()
            total += float(loss.detach())
        return total

    def _loss(self, at: Any) -> Any:
        r, o = self.rows, self.options
        mask = r.mask[at]
        logprobs, entropy = self.logprobs(self.model, at)
        advantage = r.advantage[at] * mask
        ratio = torch.where(mask, logprobs - r.old_logprobs[at], 0.0).exp()
        clipped = ratio.clamp(1 - o["clip"], 1 + o["clip"])
        surrogate = torch.maximum(-advantage * ratio, -advantage * clipped)
        bounded = torch.minimum(surrogate, -o["dual_clip"] * advantage)
        policy = torch.where(advantage < 0, bounded, surrogate)
        gap = torch.where(mask, r.ref_logprobs[at] - logprobs, 0.0).clamp(-10, 10)
        each = policy + o["kl_coefficient"] * (gap.exp() - gap - 1)
        each = each - o["entropy_coefficient"] * entropy
        return torch.where(mask, each, 0.0).sum()

    def update(self, order: Any) -> None:
        """An optimizer step for each minibatch."""
        for index in order:
            self.optimizer.zero_grad(set_to_none=True)
            self.gradient(index)
            torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.grad_clip)
            self.optimizer.step()
