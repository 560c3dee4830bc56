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
from hiperjax.envs.inline import Answer, Method
from hiperjax.envs.workers import EnvFailure, EnvWorkers
from hiperjax.models.transformer import Params, TransformerConfig
from hiperjax.stop import REQUEST
from hiperjax.types import Blocks, Observation, Trajectory

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
        while run.queue or run.asked or any(lane.busy for lane in run.lanes):
            for lane in run.lanes:
                REQUEST.check()
                run.harvest(lane)
                run.take(wait=False)
                run.fill(lane)
                run.take(wait=not run.writing)
                run.shrink(lane)
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


@dataclasses.dataclass
class _Asked:
    """What the workers were asked for, and for whom."""

    lane: Engine[PlayedEpisode]
    method: Method
    index: int
    task_id: str
    episode: PlayedEpisode | None = None
    """None: it is being opened"""
    reply: tuple[np.ndarray, np.ndarray, Blocks] | None = None
    """tokens, log-probs and blocks of the reply that is acted on"""


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
        rollout.workers.forget()
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
        self.asked: dict[int, _Asked] = {}
        """environment slot -> what it has not answered yet"""
        self.writing = 0
        """episodes whose reply is asked for and was not harvested yet"""
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

    def ask(self, method: Method, waiting: dict[int, _Asked], values: Sequence[Any]) -> None:
        """Ask the workers something for environment slots."""
        self.asked |= waiting
        self.measure("environment", self.r.workers.ask, method, list(waiting), values)

    def take(self, *, wait: bool) -> None:
        """Go on with every episode whose environment has answered.

        `wait`: for one of them at least, if any is to answer.
        """
        while taken := self.measure("environment", partial(self.r.workers.take, wait=wait)):
            wait = False
            for env_slot, answer in taken:
                self._go_on(env_slot, self.asked.pop(env_slot), answer)

    def _go_on(self, env_slot: int, asked: _Asked, answer: Answer) -> None:
        lane, episode = asked.lane, asked.episode
        if isinstance(answer, EnvFailure):
            self.failures.append(answer)
            self.free_env_slots.append(env_slot)
            if episode is not None:
                lane.release(episode)
        elif isinstance(answer, Observation):
            suite, writer = self.r.suite, WindowWriter(self.r.prompter)
            episode = PlayedEpisode(
                suite, asked.task_id, answer, index=asked.index, env_slot=env_slot, writer=writer
            )
            self._ask(lane, episode)
        elif isinstance(answer, Step):
            assert episode is not None and asked.reply is not None
            self._record(asked, episode, *asked.reply, answer)
        else:
            assert episode is not None
            self.free_env_slots.append(env_slot)
            episode.note_outcome(answer)
            self._finish(episode)

    def fill(self, lane: Engine) -> None:
        """Open waiting episodes in the lane's free slots."""
        count = min(lane.free - self._count_opening(lane), len(self.queue))
        waiting: dict[int, _Asked] = {}
        for _ in range(count):
            env_slot = self.free_env_slots.pop() if self.free_env_slots else next(self.env_slots)
            waiting[env_slot] = _Asked(lane, "reset", *self.queue.popleft())
        if waiting:
            self.ask("reset", waiting, [asked.task_id for asked in waiting.values()])

    def shrink(self, lane: Engine) -> None:
        """Where no episode will come any more, drop the lane's free slots."""
        if not self.queue and not self._count_opening(lane):
            lane.shrink()

    def _count_opening(self, lane: Engine) -> int:
        return sum(a.lane is lane and a.episode is None for a in self.asked.values())

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
        self.writing += 1
        ask = lane.ask if prompt.opens else lane.ask_more
        ask(episode, [*prompt.ids, *episode.given.ids], number=number, turn=turn)

    def harvest(self, lane: Engine) -> None:
        """Take finished replies and act on them in their environments."""
        waiting: dict[int, _Asked] = {}
        for drawn in self.measure("device", lane.harvest):
            episode, ids, logprobs = _complete(*drawn)
            self.writing -= 1
            reply = ids, logprobs, self.r.read_reply(episode, ids)
            waiting[episode.env_slot] = _Asked(
                lane, "step", episode.index, episode.task_id, episode, reply
            )
        actions = [asked.reply[2].action for asked in waiting.values() if asked.reply is not None]
        if waiting:
            self.ask("step", waiting, actions)

    def _record(
        self,
        asked: _Asked,
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
            asked.lane.release(episode)
            waiting = dataclasses.replace(asked, method="score", reply=None)
            self.ask("score", {episode.env_slot: waiting}, [episode.ending])
        else:
            self._ask(asked.lane, episode)

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
