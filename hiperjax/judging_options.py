"""Settings of judges, apart from `config.py` for its length; the run's configuration holds them."""

import dataclasses
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
