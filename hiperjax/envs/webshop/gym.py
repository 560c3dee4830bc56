"""WebShop behind Gymnasium's interface: strings in, strings out.

    register_webshop()
    env = gymnasium.make("hiperjax/WebShop-v0", profile="strict", split="train")
    text, info = env.reset(seed=0)            # or options={"task": "seed233-goal17"}
    text, reward, terminated, truncated, info = env.step("search[red mug]")

The text is the shop's own page, instruction included; `info` holds `task`, `task_id` and the
`admissible` actions besides what a step reports.
"""

import random
from typing import Any

import gymnasium

from hiperjax.envs.webshop import make_webshop_suite
from hiperjax.envs.webshop.pages import render
from hiperjax.envs.webshop.profiles import write_task_id
from hiperjax.types import Observation

ENVIRONMENT = "hiperjax/WebShop-v0"


class TextSpace(gymnasium.Space[str]):
    """All strings; samples are drawn from a list."""

    def __init__(self, samples: tuple[str, ...] = ("",)) -> None:
        super().__init__(shape=None, dtype=None)
        self.samples = samples

    def contains(self, x: Any) -> bool:
        return isinstance(x, str)

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        return self.samples[int(self.np_random.integers(len(self.samples)))]


class GymWebShop(gymnasium.Env[str, str]):
    """One task an episode, cut at the suite's turn limit."""

    metadata = {"render_modes": ["ansi"]}  # noqa: RUF012 - Gymnasium's own declaration

    def __init__(
        self, split: str = "train", render_mode: str | None = None, **options: Any
    ) -> None:
        """`options` are those of `make_webshop_suite`."""
        self.suite = make_webshop_suite(**options)
        self.tasks = self.suite.tasks(split)
        if not len(self.tasks):
            count = len(self.suite.shop.list_goals(self.suite.kind, self.suite.seed))
            where = f"webshop ({self.suite.profile.name}), split {split!r}"
            raise ValueError(f"{where}: no tasks, the catalogue has only {count} goals")
        self.render_mode = render_mode
        self.observation_space = TextSpace()
        self.action_space = TextSpace(("search[gift]", "click[back to search]", "click[next >]"))
        self._env = self.suite.make_env()
        self._turn = 0
        self._text = ""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        super().reset(seed=seed)
        task_id = (options or {}).get("task") or self._draw()
        observation = self._env.reset(task_id)
        self._turn = 0
        return self._show(observation), self._inform(observation)

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        step = self._env.step(action)
        self._turn += 1
        truncated = not step.terminated and self._turn >= self.suite.max_turns
        info = self._inform(step.observation) | dict(step.info)
        return self._show(step.observation), step.reward, step.terminated, truncated, info

    def render(self) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return self._text

    def _draw(self) -> str:
        """A task of the split; under `hiper` a weighted goal of any split, as the original's."""
        if self.suite.profile.quirks:
            goals = self.suite.shop.list_goals(self.suite.kind, self.suite.seed)
            rng = random.Random(int(self.np_random.integers(2**32)))
            return write_task_id(self.suite.seed, goals.draw(rng))
        return self.tasks[int(self.np_random.integers(len(self.tasks)))]

    def _show(self, observation: Observation) -> str:
        session = self._env.session
        if session is None or not observation.admissible:  # after the purchase: the receipt
            self._text = observation.text
        else:
            self._text = render(session)
        return self._text

    def _inform(self, observation: Observation) -> dict[str, Any]:
        return {
            "task": observation.task,
            "task_id": self._env.task_id,
            "admissible": observation.admissible,
        }


def register_webshop() -> None:
    """Make `gymnasium.make("hiperjax/WebShop-v0")` work."""
    if ENVIRONMENT not in gymnasium.registry:
        gymnasium.register(ENVIRONMENT, entry_point="hiperjax.envs.webshop.gym:GymWebShop")
