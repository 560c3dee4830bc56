"""Settings of judges and of comparison by a rubric."""

import dataclasses
import pathlib
from typing import Literal


@dataclasses.dataclass(frozen=True)
class JudgeConfig:
    """Who says which criteria of an episode hold, where the run asks."""

    kind: Literal["program", "callable", "http"] = "program"
    """program: the world itself; callable: a Python function; http: a language model behind an
    OpenAI-compatible address."""
    function: str = ""
    """callable: MODULE:FUNCTION, which takes a hiperjax.judging.base.Request."""
    url: str | None = None
    """http: base address, such as http://127.0.0.1:8000/v1; none: $OPENAI_BASE_URL. The key, if it
    wants one, is $OPENAI_API_KEY."""
    model: str | None = None
    """http: name of the model; none: $OPENAI_MODEL_NAME."""
    concurrency: int = 8
    """Requests under way at one time."""
    timeout: float = 60.0
    """http: seconds that one request may take."""
    retries: int = 4
    """http: times that a request is sent again, after a busy, broken or silent server."""
    attempts: int = 5
    """http: answers asked for until one can be read."""
    max_tokens: int = 2048
    """http: tokens of an answer at most."""
    transcript_length: int = 12000
    """http: characters of an episode that are shown; beyond, its middle turns are left out."""
    flip: float = 0.0
    """Share of verdicts on criteria that are turned over, to study what noise does."""
    max_failure_rate: float = 0.1
    """Stop the run when a larger share of an iteration's verdicts fails."""


@dataclasses.dataclass(frozen=True)
class RubricConfig:
    """Comparison of the episodes of a task by a rubric, and what it pays."""

    reward: Literal["off", "replace", "add"] = "off"
    """What an episode is worth beside the others is paid with its last turn (times reward_scale):
    not at all, in place of the environment's reward, or beside it."""
    path: pathlib.Path | None = None
    """JSON list of criteria (docs/judging.md); none: whether it is done, repetition, turns."""
    against: Literal["random", "all"] = "random"
    """With whom an episode is compared: one of its group, drawn, or each of the others."""
    grade: Literal["verdict", "score"] = "verdict"
    """1, 0 or -1, where both orders agree; or the mean of both orders' scores, from -2 to 2."""
    margin: float = 0.0
    """verdict: by how much one order has to prefer an episode."""
    both_orders: bool = True
    """Compare each pair twice, either episode first: judges prefer places."""
    max_malformed: float = 1.0
    """Gate: an episode of which a larger share of replies is malformed is worth -2."""
    max_inadmissible: float = 1.0
    """Gate: the same for actions that the world does not understand."""
    allow_truncated: bool = True
    """Gate: else an episode that the turn limit cut is worth -2."""
    check_gates: bool = False
    """Gate: an episode that ends without a criterion which its checklist calls a gate is worth
    -2."""
