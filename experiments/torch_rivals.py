"""The rivals in torch: `transformers` with the same weights, as published systems use it.

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
        """One reply a prompt; temperature 0 is greedy."""
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
