"""Slots x environments -> trajectories.

A fixed number of slots; each holds one episode. An episode that ends leaves its slot at once and
the next one waiting takes it. The device works on one lane of slots while the host harvests
another: takes the replies that are complete, parses them, steps their environments, renders their
next prompts. One lane is enough where the host costs nothing beside the device.
"""

import collections
import dataclasses
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Key

from hiperjax.acting.blocks import CLOSING_ACTION, find_stop, parse_reply
from hiperjax.acting.episode import EpisodeRecorder
from hiperjax.acting.lanes import Lane, LaneShape, RolloutStats
from hiperjax.acting.pieces import build_pieces
from hiperjax.acting.prompts import Prompter, PromptTooLong
from hiperjax.acting.sampler import encode_prefix
from hiperjax.envs.base import Step, Suite
from hiperjax.envs.workers import EnvFailure, EnvWorkers
from hiperjax.models.transformer import Params, TransformerConfig
from hiperjax.types import Blocks, Trajectory


@dataclasses.dataclass
class RolloutResult:
    trajectories: list[Trajectory]
    """in the order of the tasks asked for, failed episodes left out"""
    failures: list[EnvFailure]
    stats: RolloutStats
    seconds: dict[str, float]
    """wall time: in environments, waiting for the device, and on the host besides"""


@dataclasses.dataclass(kw_only=True)
class _Episode(EpisodeRecorder):
    index: int
    place: int
    """of its environment among the workers'"""
    prompt_ids: list[int] = dataclasses.field(default_factory=list)


class Rollout:
    """Plays episodes with the current parameters; one object serves all iterations."""

    lane_kind: type[Lane] = Lane
    """What its slots are run by; benchmarks put rivals here."""

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
        refill: int = 0,
        prefill_rows: int = 4,
        lanes: int = 1,
        row_multiple: int = 1,
        strict_format: bool = True,
        rewrite_on_keep: bool = False,
    ):
        self.config, self.prompter = config, prompter
        self.workers, self.suite = workers, suite
        self.slots, self.lanes, self.max_turns = slots, lanes, max_turns
        self.shape = LaneShape(
            slots=slots // lanes,
            prompt=prompt_length - len(prompter.shared_prefix),
            reply=reply_length,
            chunk=decode_chunk,
            refill=refill or min(8, max(4, slots // lanes // 8)),
            rows=prefill_rows,
            multiple=row_multiple,
        )
        self.strict_format, self.rewrite_on_keep = strict_format, rewrite_on_keep
        tokenizer = prompter.tokenizer
        self.pieces = build_pieces(tokenizer, config.vocab_size)
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
        started = time.perf_counter()
        while run.queue or any(lane.busy for lane in run.lanes):
            for lane in run.lanes:
                run.harvest(lane)
                run.fill(lane)
                run.measure("device", lane.run)
        run.done.sort(key=lambda item: item[0])
        whole = time.perf_counter() - started
        run.seconds["host"] = whole - sum(run.seconds.values())
        return RolloutResult([t for _, t in run.done], run.failures, run.stats, dict(run.seconds))

    def parse(self, episode: _Episode, ids: np.ndarray) -> Blocks:
        """What a reply says: once, when it is born."""
        parsed = parse_reply(
            self.pieces,
            ids.tolist(),
            current_subgoal=episode.subgoal,
            first_turn=not episode.turns,
            strict=self.strict_format,
            rewrite_on_keep=self.rewrite_on_keep,
        )
        renderer, admissible = self.prompter.renderer, episode.observation.admissible
        return dataclasses.replace(
            parsed, action=renderer.restore_action(parsed.action, admissible)
        )


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
        self.r = rollout
        self.queue = collections.deque(enumerate(task_ids, first))
        self.done: list[tuple[int, Trajectory]] = []
        self.failures: list[EnvFailure] = []
        self.stats = RolloutStats()
        self.seconds: dict[str, float] = collections.defaultdict(float)
        shared = rollout.prompter.shared_prefix
        self.shared = len(shared)
        prefix = None
        if shared:
            prefix = encode_prefix(params, jnp.asarray(shared, jnp.int32), config=rollout.config)
            self.stats.prompt_tokens += self.shared
            self.stats.prefill_slots += self.shared
        self.lanes: list[Lane[_Episode]] = [
            rollout.lane_kind(
                rollout.shape,
                params,
                rollout.config,
                key,
                prefix=prefix,
                find_stop=partial(find_stop, rollout.pieces),
                stats=self.stats,
                temperature=np.float32(temperature),
                top_p=top_p,
                stop_ids=rollout.stop_ids,
            )
            for _ in range(rollout.lanes)
        ]
        self.places = iter(range(len(task_ids)))
        self.free_places: list[int] = []

    def measure(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        """Call, and book the wall time."""
        started = time.perf_counter()
        result = function(*args)
        self.seconds[name] += time.perf_counter() - started
        return result

    def fill(self, lane: Lane) -> None:
        """Open waiting episodes in the lane's free slots; with none waiting, let it shrink."""
        while self.queue and lane.free:
            count = min(lane.free, len(self.queue))
            places = [self.free_places.pop() if self.free_places else next(self.places)
                      for _ in range(count)]  # fmt: skip
            taken = [(place, *self.queue.popleft()) for place in places]
            opened = self.measure(
                "environment", self.r.workers.reset, places, [task for _, _, task in taken]
            )
            for (place, index, task_id), result in zip(taken, opened, strict=True):
                if isinstance(result, EnvFailure):
                    self.failures.append(result)
                    self.free_places.append(place)
                else:
                    suite = self.r.suite
                    episode = _Episode(suite, task_id, result, index=index, place=place)
                    self._ask(lane, episode)
        if not self.queue:
            lane.shrink()

    def _encode(self, episode: _Episode) -> list[int]:
        ids, cuts = self.r.prompter.encode(episode.observation, episode.past, episode.subgoal)
        self.stats.dropped_history += cuts.history
        self.stats.trimmed_prompts += cuts.tokens > 0
        self.stats.trimmed_tokens += cuts.tokens
        return ids

    def _leave(self, lane: Lane, episode: _Episode) -> None:
        lane.release(episode)
        self.free_places.append(episode.place)

    def _ask(self, lane: Lane, episode: _Episode) -> None:
        """Render the episode's next prompt; an episode whose prompt cannot fit is discarded."""
        try:
            episode.prompt_ids = self._encode(episode)
        except PromptTooLong as error:
            self._leave(lane, episode)
            self.failures.append(EnvFailure(episode.task_id, f"PromptTooLong: {error}"))
            return
        self.stats.prompt_tokens += self.shared
        self.stats.shared_tokens += self.shared
        suffix = episode.prompt_ids[self.shared :]
        lane.ask(episode, suffix, number=episode.index, turn=len(episode.turns))

    def harvest(self, lane: Lane) -> None:
        """Take finished replies, step their environments, ask for their next turns."""
        found = self.measure("device", lane.harvest)
        parsed = [self.r.parse(episode, ids) for episode, ids, _ in found]
        results = self.measure(
            "environment",
            self.r.workers.step,
            [episode.place for episode, _, _ in found],
            [blocks.action for blocks in parsed],
        )
        for (episode, ids, logprobs), blocks, result in zip(found, parsed, results, strict=True):
            if isinstance(result, EnvFailure):
                self.failures.append(result)
                self._leave(lane, episode)
            else:
                self._record(lane, episode, ids, logprobs, blocks, result)

    def _record(
        self,
        lane: Lane,
        episode: _Episode,
        ids: np.ndarray,
        logprobs: np.ndarray,
        blocks: Blocks,
        step: Step,
    ) -> None:
        episode.record(episode.prompt_ids, ids, logprobs, blocks, step)
        if episode.is_over(self.r.max_turns):
            self._leave(lane, episode)
            self._finish(episode)
        else:
            self._ask(lane, episode)

    def _finish(self, episode: _Episode) -> None:
        final = None
        if not episode.terminated:
            # A truncated episode keeps the prompt it would have seen: its value is read there.
            try:
                final = self._encode(episode)
            except PromptTooLong as error:
                self.failures.append(EnvFailure(episode.task_id, f"PromptTooLong: {error}"))
                return
        self.done.append((episode.index, episode.finish(final)))
