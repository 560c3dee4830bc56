"""A language model as a judge, behind an OpenAI-compatible address."""

import os
import random
import time
from collections.abc import Sequence
from typing import Any

import httpx

from hiperjax.judging.base import Failed, Request, Verdict
from hiperjax.judging.cache import VerdictCache, make_key
from hiperjax.judging.program import JudgeError, map_requests
from hiperjax.judging.prompts import Unreadable, read_answer, write_messages
from hiperjax.stop import REQUEST

URL, KEY, MODEL = "OPENAI_BASE_URL", "OPENAI_API_KEY", "OPENAI_MODEL_NAME"
LONGEST_WAIT = 30.0
"""Seconds between two attempts at most."""


class HttpJudge:
    """Asks by `POST {url}/chat/completions`, several requests at a time.

    A server that is busy (429), broken (5xx), silent or gone is asked again after a while that
    doubles; an answer that cannot be read is asked for again, with a word on what was wrong. When
    either has been tried often enough, the verdict has failed.

    Args:
      url: base address; None: the environment variable OPENAI_BASE_URL.
      model: None: the environment variable OPENAI_MODEL_NAME.
      cache: of verdicts given before.
      concurrency: requests under way at one time.
      timeout: seconds of one request.
      retries: times that a request is sent again.
      attempts: answers asked for.
      max_tokens: of an answer.
      transcript_length: characters shown of an episode.
      first_wait: seconds before the first retry.
    """

    def __init__(
        self,
        url: str | None = None,
        model: str | None = None,
        *,
        cache: VerdictCache | None = None,
        concurrency: int = 8,
        timeout: float = 60.0,
        retries: int = 4,
        attempts: int = 5,
        max_tokens: int = 2048,
        transcript_length: int = 12000,
        first_wait: float = 0.5,
    ) -> None:
        self._url = (url or os.environ.get(URL, "")).rstrip("/")
        self._model = model or os.environ.get(MODEL, "")
        for flag, found, variable in (
            ("judge.url", self._url, URL),
            ("judge.model", self._model, MODEL),
        ):
            if not found:
                raise JudgeError(
                    f"judge.kind is http, and {flag} is not given; give it, or {variable}"
                )
        self._cache = VerdictCache() if cache is None else cache
        self._concurrency, self._retries, self._attempts = concurrency, retries, attempts
        self._max_tokens, self._length = max_tokens, transcript_length
        self._first_wait, self._timeout = first_wait, timeout
        key = os.environ.get(KEY)
        self._client = httpx.Client(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=timeout,
            limits=httpx.Limits(max_connections=concurrency),
        )

    def verdicts(self, requests: Sequence[Request]) -> list[Verdict | Failed]:
        """What the model says of each; equal requests are sent once."""
        keys = [make_key(self._model, write_messages(r, self._length)) for r in requests]
        once = {key: r for key, r in zip(keys, requests, strict=True)}
        found = map_requests(self._judge, list(once.values()), self._concurrency)
        answers = dict(zip(once, found, strict=True))
        return [answers[key] for key in keys]

    def _judge(self, request: Request) -> Verdict | Failed:
        messages = write_messages(request, self._length)
        key = make_key(self._model, messages)
        known = self._cache.get(key)
        if known is not None:
            return known
        complaint = ""
        for _ in range(self._attempts):
            text = self._ask(messages + _repeat(complaint))
            if isinstance(text, Failed):
                return text
            try:
                verdict = read_answer(request, text)
            except Unreadable as error:
                complaint = str(error)
                continue
            self._cache.put(key, verdict)
            return verdict
        return Failed(f"{self._attempts} answers could not be read; the last: {complaint}")

    def _ask(self, messages: list[dict[str, str]]) -> str | Failed:
        """The text of an answer."""
        body = {
            "model": self._model,
            "messages": messages,
            "temperature": 0,
            "max_tokens": self._max_tokens,
        }
        reason, wait = "", self._first_wait
        for attempt in range(self._retries + 1):
            if REQUEST.asked:
                break
            if attempt:
                _pause(min(LONGEST_WAIT, wait * random.uniform(0.5, 1.0)))
                wait *= 2
            try:
                answer = self._post(body)
            except httpx.HTTPError as error:
                reason = f"{type(error).__name__}: {error}"
                continue
            if answer.status_code == 429 or answer.status_code >= 500:
                reason = f"status {answer.status_code}"
                wait = max(wait, _read_wait(answer))
                continue
            if answer.status_code != 200:
                return Failed(f"status {answer.status_code}: {answer.text[:200]}")
            return _read_content(answer)
        return Failed(f"asked {self._retries + 1} times; the last: {reason}")

    def _post(self, body: dict[str, Any]) -> httpx.Response:
        """One request; httpx limits every wait for some bytes, and this all of them together."""
        deadline = time.monotonic() + self._timeout
        with self._client.stream("POST", f"{self._url}/chat/completions", json=body) as answer:
            parts = []
            for part in answer.iter_bytes():
                parts.append(part)
                if time.monotonic() > deadline:
                    raise httpx.ReadTimeout(f"not complete after {self._timeout:g} s")
        return httpx.Response(
            answer.status_code, headers={"Retry-After": answer.headers.get("Retry-After", "0")},
            content=b"".join(parts),
        )  # fmt: skip

    def close(self) -> None:
        """Give back the connections."""
        self._client.close()


def _pause(seconds: float) -> None:
    """Sleep, but no longer than until this process is asked to stop."""
    until = time.monotonic() + seconds
    while time.monotonic() < until and not REQUEST.asked:
        time.sleep(min(0.1, max(0.0, until - time.monotonic())))


def _repeat(complaint: str) -> list[dict[str, str]]:
    if not complaint:
        return []
    text = f"Your last answer could not be read: {complaint}. Answer with the JSON object only."
    return [{"role": "user", "content": text}]


def _read_wait(answer: httpx.Response) -> float:
    try:
        return float(answer.headers.get("Retry-After", 0))
    except ValueError:
        return 0.0


def _read_content(answer: httpx.Response) -> str | Failed:
    try:
        found: Any = answer.json()["choices"][0]["message"]["content"]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        return Failed(f"no chat completion: {type(error).__name__}: {error}")
    return found if isinstance(found, str) else Failed("no text in the chat completion")
