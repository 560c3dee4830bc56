"""Slots x environments -> trajectories.

A fixed number of slots; each holds one episode. An episode that ends leaves its slot at once and
the next one waiting takes it. The device works on one lane of slots while the host harvests
another: takes the replies that are complete, parses them, steps their environments, renders their
next prompts. One lane is enough where the host costs nothing beside the device.
"""

import collections
import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Key

from hiperjax.acting.blocks import CLOSING_ACTION, parse_reply, read_subgoal
from hiperjax.acting.boundaries import LEARNED, Boundaries
from hiperjax.acting.collector import RolloutResult
from hiperjax.acting.engine import Engine, EngineFactory
from hiperjax.acting.lane_sizes import LaneShape, RolloutStats
from hiperjax.acting.lanes import Lane, Openings
from hiperjax.acting.pieces import build_pieces
from hiperjax.acting.played import PlayedEpisode
from hiperjax.acting.prompts import Prompter, PromptTooLong
from hiperjax.acting.two_stage import Executor, Stage, make_lanes, prepare_engine
from hiperjax.acting.windows import Prompt, WindowWriter
from hiperjax.envs.base import Step, Suite
from hiperjax.envs.workers import EnvFailure, EnvWorkers
from hiperjax.models.transformer import Params, TransformerConfig
from hiperjax.stop import REQUEST
from hiperjax.types import Blocks, Trajectory

ReplyParser = Callable[[PlayedEpisode, np.ndarray], Blocks]
"""An episode and the tokens of its next reply, given ones included -> what the reply says."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rollout:
    """Plays episodes with the current parameters; one object serves all iterations.

    `dataclasses.replace` gives a variant of it.
    """

    config: TransformerConfig
    prompter: Prompter
    workers: EnvWorkers
    suite: Suite
    slots: int
    """episodes that decode side by side"""
    prompt_length: int
    reply_length: int
    max_turns: int
    decode_chunk: int
    refill: int = 0
    """a dispatch ends as soon as so many slots have finished; 0: an eighth of them, 4 to 8"""
    prefill_rows: int = 4
    pipeline_groups: int = 1
    """slot groups: the device decodes one while the host steps another"""
    row_multiple: int = 1
    strict_format: bool = True
    rewrite_on_keep: bool = False
    lane_factory: EngineFactory = Lane
    """Makes what runs the slots of one group."""
    parse: ReplyParser | None = None
    """Reads a reply; by default `parse_reply`, with the settings above."""
    boundaries: Boundaries = LEARNED
    """Where segments begin."""
    executor: Executor | None = None
    """who writes the action blocks, if not the policy; contexts do not grow then"""

    @functools.cached_property
    def shape(self) -> LaneShape:
        """Sizes of a lane."""
        slots = self.slots // self.pipeline_groups
        given = self.boundaries.longest  # for a lane, part of the prompt
        return LaneShape(
            slots=slots,
            prompt=self.prompt_length - len(self.prompter.shared_prefix) + given,
            reply=self.reply_length - given,
            chunk=self.decode_chunk,
            refill=self.refill or min(8, max(4, slots // 8)),
            rows=self.prefill_rows,
            multiple=self.row_multiple,
            window=self.prompter.windows.length + given if self.prompter.windows.grow else 0,
        )

    @functools.cached_property
    def pieces(self) -> tuple[bytes, ...]:
        """Bytes of each token id."""
        return build_pieces(self.prompter.tokenizer, self.config.vocab_size)

    @functools.cached_property
    def _some_action(self) -> list[int]:
        ids, blocks = self.prompter.spell(True, "go", "go")
        return ids[blocks.subgoal_span[1] :]

    @functools.cached_property
    def stop_ids(self) -> tuple[int, ...]:
        """Tokens that end a reply."""
        return self.list_stop_ids(CLOSING_ACTION)

    def list_stop_ids(self, closing: str) -> tuple[int, ...]:
        """Tokens after which nothing is drawn, where a reply is over after this tag."""
        tokenizer = self.prompter.tokenizer
        stop = {tokenizer.eos_token_id, tokenizer.get_vocab().get(closing)}
        return tuple(sorted(i for i in stop if i is not None))

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

        Raises:
          StopAsked: looked at before every harvest.
        """
        run = _Run(self, params, task_ids, key, temperature, top_p, first)
        started = time.perf_counter()
        while run.queue or any(lane.busy for lane in run.lanes):
            for lane in run.lanes:
                REQUEST.check()
                run.harvest(lane)
                run.fill(lane)
                run.measure("device", lane.run)
        if run.failures:  # whoever asks for a stop may have stopped the workers too
            REQUEST.check()
        run.done.sort(key=lambda item: item[0])
        whole = time.perf_counter() - started
        run.seconds["host"] = whole - sum(run.seconds.values())
        return RolloutResult([t for _, t in run.done], run.failures, run.stats, dict(run.seconds))

    def read_reply(self, episode: PlayedEpisode, ids: np.ndarray) -> Blocks:
        """What a reply says: parsed once, right after sampling."""
        if self.parse is not None:
            return self.parse(episode, ids)
        read = partial(
            parse_reply,
            self.pieces,
            current_subgoal=episode.subgoal,
            first_turn=not episode.turns,
            strict=self.strict_format,
            rewrite_on_keep=self.rewrite_on_keep,
            control=self.prompter.encoder.control_ids,
            decided=episode.given.switch,
        )
        parsed = read(ids.tolist())
        if episode.planned is not None:  # what an executor writes undoes no decision
            planned = read([*ids[: episode.planned].tolist(), *self._some_action])
            acted = {"action": parsed.action, "action_span": parsed.action_span}
            parsed = dataclasses.replace(planned, **acted)
        renderer, admissible = self.prompter.renderer, episode.observation.admissible
        return dataclasses.replace(
            parsed, action=renderer.restore_action(parsed.action, admissible)
        )


def _complete(
    episode: PlayedEpisode, ids: np.ndarray, logprobs: np.ndarray
) -> tuple[PlayedEpisode, np.ndarray, np.ndarray]:
    """A drawn reply after what was given of it, which has no log-prob."""
    given = np.asarray(episode.given.ids, ids.dtype)
    if not len(given):
        return episode, ids, logprobs
    unsampled = np.zeros(len(given), logprobs.dtype)
    return episode, np.concatenate([given, ids]), np.concatenate([unsampled, logprobs])


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
        self.seed = tuple(np.asarray(jax.random.key_data(key)).ravel().tolist())
        shared = rollout.prompter.shared_prefix
        # Where contexts grow, episodes of one task share their opening.
        groups = rollout.shape.window > 0 and len(set(task_ids)) < len(task_ids)
        openings = Openings() if groups else None
        self.lanes = make_lanes(
            rollout.pipeline_groups,
            Stage(rollout.shape, params, rollout.config, key),
            rollout.executor,
            self._hand_over,
            partial(
                prepare_engine,
                rollout.lane_factory,
                pieces=rollout.pieces,
                list_stop_ids=rollout.list_stop_ids,
                stats=self.stats,
                shared=shared,
                openings=openings,
                temperature=np.float32(temperature),
                top_p=top_p,
            ),
        )
        self.env_slots = iter(range(len(task_ids)))
        self.free_env_slots: list[int] = []

    def _hand_over(self, episode: PlayedEpisode, ids: np.ndarray) -> Sequence[int] | None:
        """The executor's prompt, once the planner has written what it is to act under."""
        plan, executor = [*episode.given.ids, *ids.tolist()], self.r.executor
        if executor is None or read_subgoal(self.r.pieces, plan) is None:
            return None
        try:
            prompt = executor.context(episode, plan)
        except PromptTooLong:  # nobody acts: a turn without an action
            return None
        episode.planned = len(plan)
        return prompt

    def measure(self, name: str, function: Callable[..., Any], *args: Any) -> Any:
        """Call, and book the wall time."""
        started = time.perf_counter()
        result = function(*args)
        self.seconds[name] += time.perf_counter() - started
        return result

    def fill(self, lane: Engine) -> None:
        """Open waiting episodes in the lane's free slots; with none waiting, let it shrink."""
        while self.queue and lane.free:
            count = min(lane.free, len(self.queue))
            env_slots = [self.free_env_slots.pop() if self.free_env_slots else next(self.env_slots)
                      for _ in range(count)]  # fmt: skip
            taken = [(env_slot, *self.queue.popleft()) for env_slot in env_slots]
            opened = self.measure(
                "environment", self.r.workers.reset, env_slots, [task for _, _, task in taken]
            )
            for (env_slot, index, task_id), result in zip(taken, opened, strict=True):
                if isinstance(result, EnvFailure):
                    self.failures.append(result)
                    self.free_env_slots.append(env_slot)
                else:
                    suite = self.r.suite
                    writer = WindowWriter(self.r.prompter)
                    episode = PlayedEpisode(
                        suite, task_id, result, index=index, env_slot=env_slot, writer=writer
                    )
                    self._ask(lane, episode)
        if not self.queue:
            lane.shrink()

    def _write(self, episode: PlayedEpisode) -> Prompt:
        prompt = episode.writer.write(episode.observation, episode.past, episode.subgoal)
        self.stats.dropped_history += prompt.cuts.history
        self.stats.trimmed_prompts += prompt.cuts.tokens > 0
        self.stats.trimmed_tokens += prompt.cuts.tokens
        self.stats.window_overflows += prompt.overflow
        return prompt

    def _leave(self, lane: Engine, episode: PlayedEpisode) -> None:
        lane.release(episode)
        self.free_env_slots.append(episode.env_slot)

    def _ask(self, lane: Engine, episode: PlayedEpisode) -> None:
        """Write the episode's next prompt; an episode whose prompt cannot fit is discarded."""
        try:
            episode.prompt = prompt = self._write(episode)
        except PromptTooLong as error:
            self._leave(lane, episode)
            self.failures.append(EnvFailure(episode.task_id, f"PromptTooLong: {error}"))
            return
        number, turn, episode.planned = episode.index, len(episode.turns), None
        episode.given = self.r.boundaries.decide(episode, seed=self.seed, number=number)
        ask = lane.ask if prompt.opens else lane.ask_more
        ask(episode, [*prompt.ids, *episode.given.ids], number=number, turn=turn)

    def harvest(self, lane: Engine) -> None:
        """Take finished replies, step their environments, ask for their next turns."""
        replies = [_complete(*drawn) for drawn in self.measure("device", lane.harvest)]
        parsed = [self.r.read_reply(episode, ids) for episode, ids, _ in replies]
        results = self.measure(
            "environment",
            self.r.workers.step,
            [episode.env_slot for episode, _, _ in replies],
            [blocks.action for blocks in parsed],
        )
        for (episode, ids, logprobs), blocks, result in zip(replies, parsed, results, strict=True):
            if isinstance(result, EnvFailure):
                self.failures.append(result)
                self._leave(lane, episode)
            else:
                self._record(lane, episode, ids, logprobs, blocks, result)

    def _record(
        self,
        lane: Engine,
        episode: PlayedEpisode,
        ids: np.ndarray,
        logprobs: np.ndarray,
        blocks: Blocks,
        step: Step,
    ) -> None:
        prompt = episode.prompt
        assert prompt is not None, "a reply has a prompt"
        if self.r.executor is not None:
            ids, logprobs, blocks = self.r.executor.split(ids, logprobs, blocks, episode.planned)
        given = len(episode.given.ids)
        episode.record(prompt.ids, ids, logprobs, blocks, step, opens=prompt.opens, given=given)
        episode.writer.note_reply(ids, blocks)
        if episode.is_over(self.r.max_turns):
            self._leave(lane, episode)
            self._finish(episode)
        else:
            self._ask(lane, episode)

    def _finish(self, episode: PlayedEpisode) -> None:
        final, opens = None, True
        if not episode.terminated:
            # A truncated episode keeps the prompt it would have seen: its value is read there.
            try:
                final, opens, *_ = self._write(episode)
            except PromptTooLong as error:
                self.failures.append(EnvFailure(episode.task_id, f"PromptTooLong: {error}"))
                return
        self.done.append((episode.index, episode.finish(final, final_opens=opens)))
