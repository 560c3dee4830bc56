"""Slots x environments -> trajectories.

A fixed number of slots; each holds one episode. An episode that ends leaves its slot at once and
the next one waiting takes it. Prompts of all slots that wait for one are prefilled together, then
every slot decodes in chunks; between chunks the host harvests finished replies, parses them, steps
the environments and renders the next prompts.
"""

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key

from hiperjax.acting.blocks import CLOSING_ACTION, find_stop, parse_reply
from hiperjax.acting.pieces import build_pieces
from hiperjax.acting.prompts import PastTurn, Prompter, PromptTooLong
from hiperjax.acting.sampler import SamplerState, advance, init_state, start
from hiperjax.envs.base import Step, Suite
from hiperjax.envs.workers import EnvFailure, EnvWorkers
from hiperjax.models.transformer import Params, TransformerConfig
from hiperjax.types import Ending, Observation, Trajectory, Turn


@dataclasses.dataclass
class RolloutStats:
    """What a rollout cost, in tokens and slot-steps."""

    prompt_tokens: int = 0
    prefill_slots: int = 0
    """token slots the prefills computed, padding included"""
    reply_tokens: int = 0
    decode_slots: int = 0
    """slot-steps the decode chunks computed, resting slots included"""
    dropped_history: int = 0
    """turns of history dropped to make prompts fit"""
    trimmed_prompts: int = 0
    """prompts whose observation was cut as well"""
    trimmed_tokens: int = 0
    """tokens of observations cut"""


@dataclasses.dataclass
class RolloutResult:
    trajectories: list[Trajectory]
    """in the order of the tasks asked for, failed episodes left out"""
    failures: list[EnvFailure]
    stats: RolloutStats


@dataclasses.dataclass
class _Episode:
    index: int
    task_id: str
    observation: Observation
    prompt_ids: list[int] = dataclasses.field(default_factory=list)
    subgoal: str = ""
    past: list[PastTurn] = dataclasses.field(default_factory=list)
    turns: list[Turn] = dataclasses.field(default_factory=list)


def choose_bucket(buckets: Sequence[int], size: int) -> int:
    """The smallest bucket that holds `size`. Raises `ValueError` where none does."""
    for bucket in buckets:
        if size <= bucket:
            return bucket
    raise ValueError(f"size {size} exceeds the largest bucket {buckets[-1]}")


class Rollout:
    """Plays episodes with the current parameters; one object serves all iterations."""

    def __init__(
        self,
        *,
        config: TransformerConfig,
        prompter: Prompter,
        workers: EnvWorkers,
        suite: Suite,
        slots: int,
        prompt_length: int,
        reply_length: int,
        max_turns: int,
        decode_chunk: int,
        prompt_buckets: Sequence[int] = (),
        strict_format: bool = True,
        rewrite_on_keep: bool = False,
    ):
        self.config, self.prompter = config, prompter
        self.workers, self.suite = workers, suite
        self.slots, self.reply_length, self.max_turns = slots, reply_length, max_turns
        self.prompt_length, self.decode_chunk = prompt_length, decode_chunk
        self.length_buckets = sorted(
            {*(b for b in prompt_buckets if b < prompt_length), prompt_length}
        )
        self.row_buckets = sorted({max(1, slots // 3), slots})
        self.strict_format, self.rewrite_on_keep = strict_format, rewrite_on_keep
        tokenizer = prompter.tokenizer
        self.pieces = build_pieces(tokenizer)
        stop = {tokenizer.eos_token_id, tokenizer.get_vocab().get(CLOSING_ACTION)}
        self.stop_ids = tuple(sorted(i for i in stop if i is not None))

    def collect(
        self,
        params: Params,
        task_ids: Sequence[str],
        *,
        key: Key[Array, ""],
        temperature: float,
        top_p: float = 1.0,
        first: int = 0,
    ) -> RolloutResult:
        """Play one episode of each task; `temperature` 0 is greedy.

        Replies depend on (`key`, episode, turn, token) only; episodes are numbered from `first`.
        """
        run = _Run(self, params, task_ids, key, temperature, top_p, first)
        while run.queue or run.active:
            run.fill_slots()
            run.prefill()
            run.decode()
            run.harvest()
        run.done.sort(key=lambda item: item[0])
        return RolloutResult([t for _, t in run.done], run.failures, run.stats)


class _Run:
    """The state of one `collect`."""

    def __init__(
        self,
        rollout: Rollout,
        params: Params,
        task_ids: Sequence[str],
        key: Key[Array, ""],
        temperature: float,
        top_p: float,
        first: int,
    ):
        self.r, self.params, self.key = rollout, params, key
        self.queue = collections.deque(enumerate(task_ids, first))
        self.active: dict[int, _Episode] = {}
        self.waiting: list[int] = []
        self.halted = np.zeros(rollout.slots, bool)
        self.static: dict[str, Any] = dict(
            config=rollout.config,
            temperature=np.float32(temperature),
            top_p=top_p,
            stop_ids=rollout.stop_ids,
        )
        self.state: SamplerState = init_state(
            rollout.config, rollout.slots, rollout.prompt_length, rollout.reply_length
        )
        self.done: list[tuple[int, Trajectory]] = []
        self.failures: list[EnvFailure] = []
        self.stats = RolloutStats()

    def fill_slots(self) -> None:
        """Open waiting episodes in free slots, until slots or episodes run out."""
        while self.queue:
            free = [s for s in range(self.r.slots) if s not in self.active]
            taken = [(s, *self.queue.popleft()) for s in free[: len(self.queue)]]
            if not taken:
                return
            opened = self.r.workers.reset([t[0] for t in taken], [t[2] for t in taken])
            for (slot, index, task_id), result in zip(taken, opened, strict=True):
                if isinstance(result, EnvFailure):
                    self.failures.append(result)
                else:
                    self._await_reply(slot, _Episode(index, task_id, result))

    def _encode(self, episode: _Episode) -> list[int]:
        ids, cuts = self.r.prompter.encode(episode.observation, episode.past, episode.subgoal)
        self.stats.dropped_history += cuts.history
        self.stats.trimmed_prompts += cuts.tokens > 0
        self.stats.trimmed_tokens += cuts.tokens
        return ids

    def _await_reply(self, slot: int, episode: _Episode) -> None:
        """Render the episode's next prompt; an episode whose prompt cannot fit is discarded."""
        try:
            episode.prompt_ids = self._encode(episode)
        except PromptTooLong as error:
            self.active.pop(slot, None)
            self.failures.append(EnvFailure(episode.task_id, f"PromptTooLong: {error}"))
            return
        self.active[slot] = episode
        self.waiting.append(slot)

    def prefill(self) -> None:
        """Prefill the prompts that wait, grouped by length bucket."""
        groups: dict[int, list[int]] = collections.defaultdict(list)
        for slot in self.waiting:
            size = len(self.active[slot].prompt_ids)
            groups[choose_bucket(self.r.length_buckets, size)].append(slot)
        for length, slots in sorted(groups.items()):
            self._prefill_group(length, slots)
        self.halted[self.waiting] = False
        self.waiting = []

    def _prefill_group(self, length: int, slots: list[int]) -> None:
        rows = choose_bucket(self.r.row_buckets, len(slots))
        tokens = np.zeros((rows, length), np.int32)
        lengths = np.ones(rows, np.int32)
        where = np.full(rows, self.r.slots, np.int32)
        episodes, turns = np.zeros(rows, np.int32), np.zeros(rows, np.int32)
        for i, slot in enumerate(slots):
            episode = self.active[slot]
            tokens[i, : len(episode.prompt_ids)] = episode.prompt_ids
            lengths[i], where[i] = len(episode.prompt_ids), slot
            episodes[i], turns[i] = episode.index, len(episode.turns)
            self.stats.prompt_tokens += len(episode.prompt_ids)
        self.stats.prefill_slots += rows * length
        self.state = start(
            self.params,
            self.state,
            where,
            tokens,
            lengths,
            self.key,
            episodes,
            turns,
            **self.static,
        )

    def decode(self) -> None:
        """One chunk of decoding for every live slot."""
        if self.active:
            self.state = advance(
                self.params, self.state, self.halted, steps=self.r.decode_chunk, **self.static
            )

    def harvest(self) -> None:
        """Take finished replies, step their environments, start their next turns."""
        if not self.active:
            return
        s = self.state
        live, count, reply, logprobs = jax.device_get((s.live, s.count, s.reply, s.logprobs))
        self.stats.decode_slots += int(count[list(self.active)].max()) * self.r.slots
        replies: dict[int, tuple[np.ndarray, np.ndarray]] = {}
        for slot in self.active:
            ids = reply[slot, : count[slot]]
            stop = find_stop(self.r.pieces, ids.tolist())
            if stop is not None or not live[slot]:
                self.halted[slot] = True
                replies[slot] = (ids[:stop].copy(), logprobs[slot, : len(ids[:stop])].copy())
        self.stats.reply_tokens += sum(len(ids) for ids, _ in replies.values())
        self._act(replies)

    def _act(self, replies: dict[int, tuple[np.ndarray, np.ndarray]]) -> None:
        slots = list(replies)
        blocks = {}
        for slot in slots:
            episode = self.active[slot]
            parsed = parse_reply(
                self.r.pieces,
                replies[slot][0].tolist(),
                current_subgoal=episode.subgoal,
                first_turn=not episode.turns,
                strict=self.r.strict_format,
                rewrite_on_keep=self.r.rewrite_on_keep,
            )
            action = self.r.prompter.renderer.restore_action(
                parsed.action, episode.observation.admissible
            )
            blocks[slot] = dataclasses.replace(parsed, action=action)
        results = self.r.workers.step(slots, [blocks[s].action for s in slots])
        for slot, result in zip(slots, results, strict=True):
            if isinstance(result, EnvFailure):
                self.failures.append(result)
                del self.active[slot]
                continue
            self._record(slot, *replies[slot], blocks[slot], result)

    def _record(self, slot: int, ids: np.ndarray, logprobs: np.ndarray, blocks, step: Step) -> None:
        episode = self.active[slot]
        seen = episode.observation
        episode.turns.append(
            Turn(
                prompt_ids=np.asarray(episode.prompt_ids, np.int32),
                response_ids=ids,
                behavior_logprobs=logprobs,
                blocks=blocks,
                reward=float(step.reward),
                observation=seen.text,
                admissible=self.r.suite.is_admissible(blocks.action, seen),
                milestone=bool(step.info.get("milestone", False)),
            )
        )
        episode.past.append(PastTurn(len(episode.turns), seen.text, blocks.action))
        episode.subgoal, episode.observation = blocks.subgoal, step.observation
        if step.terminated or step.truncated or len(episode.turns) >= self.r.max_turns:
            self._finish(slot, step)
        else:
            self._await_reply(slot, episode)

    def _finish(self, slot: int, step: Step) -> None:
        episode = self.active.pop(slot)
        final = None
        if not step.terminated:
            # A truncated episode keeps the prompt it would have seen: its value is read there.
            try:
                final = np.asarray(self._encode(episode), np.int32)
            except PromptTooLong as error:
                self.failures.append(EnvFailure(episode.task_id, f"PromptTooLong: {error}"))
                return
        trajectory = Trajectory(
            task_id=episode.task_id,
            turns=tuple(episode.turns),
            ending=Ending.TERMINATED if step.terminated else Ending.TRUNCATED,
            success=bool(step.info["success"]),
            score=step.info.get("task_score", 0.0) if self.r.suite.reports_scores else None,
            final_prompt_ids=final,
            final_observation=step.observation.text,
        )
        self.done.append((episode.index, trajectory))
