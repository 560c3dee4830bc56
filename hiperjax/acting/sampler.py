"""Jitted sampling over a fixed number of slots: prefill prompts into a right-padded cache, decode
in chunks under one dispatch, and extend the slots whose window goes on.

The state is donated from call to call, so one cache serves the whole rollout. What all prompts
begin with is encoded once (`encode_prefix`); slots hold only what follows it. Every random draw is
keyed by episode, turn and token: a reply does not depend on the slot it was sampled in, nor on its
neighbors.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from hiperjax.models.transformer import (
    KeyValues,
    Params,
    TransformerConfig,
    append,
    decode,
    init_cache,
    logits,
    prefill,
)


class SamplerState(NamedTuple):
    """What `S` slots hold between two dispatches."""

    cache: KeyValues
    token: Int[Array, " S"]
    """last token sampled, not yet in the cache"""
    position: Int[Array, " S"]
    """where in the cache that token will be written"""
    count: Int[Array, " S"]
    """reply tokens sampled so far"""
    live: Bool[Array, " S"]
    """False once a reply has met a stop token or its length limit"""
    keys: Key[Array, " S"]
    reply: Int[Array, "S R"]
    logprobs: Float[Array, "S R"]
    steps: Int[Array, ""]
    """decode steps taken so far, of all slots together"""


def init_state(config: TransformerConfig, slots: int, prompt: int, reply: int) -> SamplerState:
    """Empty slots for prompts of at most `prompt` tokens after the shared prefix, and replies of at
    most `reply`."""
    # Each its own array: all are donated, and no buffer may be donated twice.
    return SamplerState(
        cache=init_cache(config, slots, prompt + reply),
        token=jnp.zeros(slots, jnp.int32),
        position=jnp.zeros(slots, jnp.int32),
        count=jnp.zeros(slots, jnp.int32),
        live=jnp.zeros(slots, bool),
        keys=jax.random.split(jax.random.key(0), slots),
        reply=jnp.zeros((slots, reply), jnp.int32),
        logprobs=jnp.zeros((slots, reply), jnp.float32),
        steps=jnp.zeros((), jnp.int32),
    )


@partial(jax.jit, static_argnames="config")
def encode_prefix(
    params: Params, tokens: Int[Array, " P"], *, config: TransformerConfig
) -> KeyValues:
    """Keys and values of what all prompts begin with: once for each version of the parameters."""
    return prefill(params, config, tokens[None], jnp.array([tokens.shape[0]]))[1]


@jax.jit
def keep_slots(state: SamplerState, slots: Int[Array, " s"]) -> SamplerState:
    """A smaller state of these slots only, in this order."""
    cache = KeyValues(*(part[:, slots] for part in state.cache))
    rest = {
        name: getattr(state, name)[slots]
        for name in state._fields
        if name not in ("cache", "steps")
    }
    return SamplerState(cache=cache, steps=state.steps, **rest)


HALVINGS = 31
"""Until the bits of a float between 0 and 1 are known."""


def keep_nucleus(scores: Float[Array, "S V"], top_p: float) -> Float[Array, "S V"]:
    """Mask what lies outside the smallest set of tokens that holds `top_p` of the mass.

    Tokens as probable as the last one that is needed are kept too. Nothing is sorted: the least
    probability kept is found by halving the bits of a float, whose order is that of the numbers.
    """
    chances = jax.nn.softmax(scores.astype(jnp.float32), axis=-1)

    def at_least(bits: Int[Array, " S"]) -> Bool[Array, "S V"]:
        return chances >= jax.lax.bitcast_convert_type(bits, jnp.float32)[:, None]

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = low + (high - low) // 2
        enough = jnp.where(at_least(middle), chances, 0.0).sum(axis=-1) >= top_p
        return jnp.where(enough, middle, low), jnp.where(enough, high, middle)

    zero = jnp.zeros(scores.shape[:1], jnp.int32)
    beyond = zero + int(np.float32(1).view(np.int32)) + 1
    least, _ = jax.lax.fori_loop(0, HALVINGS, halve, (zero, beyond))
    return jnp.where(at_least(least), scores, -jnp.inf)


def draw(
    scores: Float[Array, "S V"],
    keys: Key[Array, " S"],
    index: Int[Array, " S"],
    temperature: float | Float[Array, ""],
    top_p: float = 1.0,
) -> tuple[Int[Array, " S"], Float[Array, " S"]]:
    """Draw one token per slot; returns it with its log-prob under the full distribution.

    `temperature` 0 is greedy, by the same program: only the noise is off. The log-prob is that of
    the temperature-scaled distribution before any nucleus cut (at temperature 0, of the unscaled
    one). `top_p` (static) 1 keeps the whole distribution and costs nothing.
    """
    sampled = jnp.asarray(temperature) > 0
    scores = scores / jnp.where(sampled, temperature, 1.0)
    logprobs = jax.nn.log_softmax(scores, axis=-1)
    if top_p < 1:
        scores = keep_nucleus(scores, top_p)
    step_keys = jax.vmap(jax.random.fold_in)(keys, index)
    noise = jax.vmap(lambda k: jax.random.gumbel(k, scores.shape[-1:], jnp.float32))(step_keys)
    token = jnp.argmax(jnp.where(sampled, scores + noise, scores), axis=-1).astype(jnp.int32)
    return token, jnp.take_along_axis(logprobs, token[:, None], axis=-1)[:, 0]


def _is_stop(token: Int[Array, " P"], stop_ids: tuple[int, ...]) -> Bool[Array, " P"]:
    return jnp.isin(token, jnp.asarray(stop_ids, jnp.int32))


def _fold_turns(
    key: Key[Array, ""], episodes: Int[Array, " P"], turns: Int[Array, " P"]
) -> Key[Array, " P"]:
    """The key of each turn's draws."""
    return jax.vmap(lambda e, t: jax.random.fold_in(jax.random.fold_in(key, e), t))(episodes, turns)


class Opening(NamedTuple):
    """Replies of `P` prompts that were prefilled, before they have a slot."""

    cache: KeyValues | None
    """None where the slots' own cache holds the prompts already"""
    token: Int[Array, " P"]
    logprob: Float[Array, " P"]
    position: Int[Array, " P"]
    live: Bool[Array, " P"]
    keys: Key[Array, " P"]
    scores: Float[Array, "P V"] | None = None
    """logits the first token was drawn from, where copies of the prompt draw their own"""


def _draw_first(
    scores: Float[Array, "P V"],
    keys: Key[Array, " P"],
    temperature: float | Float[Array, ""],
    top_p: float,
    stop_ids: tuple[int, ...],
) -> tuple[Int[Array, " P"], Float[Array, " P"], Bool[Array, " P"]]:
    """The first token of each reply, its log-prob, and whether the reply goes on after it."""
    zero = jnp.zeros(len(scores), jnp.int32)
    token, logprob = draw(scores, keys, zero, temperature, top_p)
    return token, logprob, ~_is_stop(token, stop_ids)


@partial(jax.jit, static_argnames=("config", "top_p", "stop_ids", "room", "keep_scores"))
def start(
    params: Params,
    tokens: Int[Array, "P L"],
    lengths: Int[Array, " P"],
    key: Key[Array, ""],
    episodes: Int[Array, " P"],
    turns: Int[Array, " P"],
    prefix: KeyValues | None = None,
    *,
    config: TransformerConfig,
    temperature: float | Float[Array, ""],
    top_p: float,
    stop_ids: tuple[int, ...],
    room: int,
    keep_scores: bool = False,
) -> Opening:
    """Prefill `P` prompts, what follows the prefix of them, and draw each reply's first token.

    Draws are keyed by (`key`, episode, turn, token). `room` (static) is what a slot's cache holds:
    keys and values are padded to it, so that `insert` is one program for all lengths.
    """
    keys = _fold_turns(key, episodes, turns)
    hidden, kv = prefill(params, config, tokens, lengths, prefix=prefix)
    last = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)[:, 0]
    scores = logits(params, config, last)
    token, logprob, live = _draw_first(scores, keys, temperature, top_p, stop_ids)
    pad = ((0, 0), (0, 0), (0, 0), (0, room - tokens.shape[1]), (0, 0))
    cache = jax.tree.map(lambda part: jnp.pad(part, pad), kv)
    kept = scores if keep_scores else None
    return Opening(cache, token, logprob, lengths, live, keys, kept)


@partial(jax.jit, static_argnames=("top_p", "stop_ids"))
def redraw(
    opening: Opening,
    key: Key[Array, ""],
    episodes: Int[Array, " P"],
    turns: Int[Array, " P"],
    *,
    temperature: float | Float[Array, ""],
    top_p: float,
    stop_ids: tuple[int, ...],
) -> Opening:
    """The same prompts for other episodes, which draw first tokens of their own."""
    assert opening.scores is not None
    keys = _fold_turns(key, episodes, turns)
    token, logprob, live = _draw_first(opening.scores, keys, temperature, top_p, stop_ids)
    return opening._replace(token=token, logprob=logprob, live=live, keys=keys)


@partial(jax.jit, donate_argnames="state")
def insert(state: SamplerState, opening: Opening, slots: Int[Array, " P"]) -> SamplerState:
    """Put replies that begin into slots. A slot number past the last one drops its reply."""

    def put_cache(whole: Array, part: Array) -> Array:
        return whole.at[:, slots].set(part.astype(whole.dtype), mode="drop")

    cache = jax.tree.map(put_cache, state.cache, opening.cache)
    return _begin_replies(state._replace(cache=cache), opening, slots)


def _begin_replies(state: SamplerState, opening: Opening, slots: Int[Array, " P"]) -> SamplerState:
    """All of `insert` but the cache."""

    def put(whole: Array, part: Array) -> Array:
        return whole.at[slots].set(part, mode="drop")

    replies = state.reply.shape[1]
    return SamplerState(
        cache=state.cache,
        token=put(state.token, opening.token),
        position=put(state.position, opening.position),
        count=put(state.count, jnp.ones_like(opening.position)),
        live=put(state.live, opening.live & (replies > 1)),
        keys=put(state.keys, opening.keys),
        reply=state.reply.at[slots, 0].set(opening.token, mode="drop"),
        logprobs=state.logprobs.at[slots, 0].set(opening.logprob, mode="drop"),
        steps=state.steps,
    )


@partial(
    jax.jit,
    static_argnames=("config", "top_p", "stop_ids", "attend_to"),
    donate_argnames="state",
)
def extend(
    params: Params,
    state: SamplerState,
    tokens: Int[Array, "P L"],
    lengths: Int[Array, " P"],
    starts: Int[Array, " P"],
    slots: Int[Array, " P"],
    key: Key[Array, ""],
    episodes: Int[Array, " P"],
    turns: Int[Array, " P"],
    prefix: KeyValues | None = None,
    *,
    config: TransformerConfig,
    temperature: float | Float[Array, ""],
    top_p: float,
    stop_ids: tuple[int, ...],
    attend_to: int | None = None,
) -> SamplerState:
    """Append tokens to the contexts that slots hold, and draw the first token of the next replies.

    `starts` is where in its slot's cache a row's first token goes: after the last accepted token.
    What the cache holds from there on, tokens drawn past the end of a reply, is written over. Draws
    are keyed as in `start`. A slot number past the last one is padding.
    """
    keys = _fold_turns(key, episodes, turns)
    hidden, cache = append(
        params, config, tokens, lengths, starts, slots, state.cache,
        prefix=prefix, attend_to=attend_to,
    )  # fmt: skip
    last = jnp.take_along_axis(hidden, (lengths - 1)[:, None, None], axis=1)[:, 0]
    scores = logits(params, config, last)
    token, logprob, live = _draw_first(scores, keys, temperature, top_p, stop_ids)
    begun = Opening(None, token, logprob, starts + lengths, live, keys)
    return _begin_replies(state._replace(cache=cache), begun, slots)


@partial(
    jax.jit,
    static_argnames=("config", "top_p", "stop_ids", "steps", "attend_to"),
    donate_argnames="state",
)
def advance(
    params: Params,
    state: SamplerState,
    halted: Bool[Array, " S"],
    refill: Int[Array, ""],
    prefix: KeyValues | None = None,
    *,
    config: TransformerConfig,
    temperature: float | Float[Array, ""],
    top_p: float,
    stop_ids: tuple[int, ...],
    steps: int,
    attend_to: int | None = None,
) -> SamplerState:
    """Draw up to `steps` more tokens in every live slot; ends as soon as `refill` of them rest.

    `halted` puts slots to rest whose reply the host found complete. `attend_to` covers the cache
    entries in use at the end of the chunk (see `decode`).
    """
    state = state._replace(live=state.live & ~halted)
    enough = jnp.maximum(state.live.sum() - refill, 0)
    rows = jnp.arange(state.token.shape[0])
    limit = state.reply.shape[1]

    def body(carry: tuple[Array, SamplerState]) -> tuple[Array, SamplerState]:
        step, s = carry
        hidden, cache = decode(
            params, config, s.token, s.position, s.cache, prefix=prefix, attend_to=attend_to
        )
        token, logprob = draw(logits(params, config, hidden), s.keys, s.count, temperature, top_p)
        # An idle slot writes past the end, which drops it.
        at = jnp.where(s.live, s.count, limit)
        count = s.count + s.live
        return step + 1, SamplerState(
            cache=cache,
            token=jnp.where(s.live, token, s.token),
            position=s.position + s.live,
            count=count,
            live=s.live & ~_is_stop(token, stop_ids) & (count < limit),
            keys=s.keys,
            reply=s.reply.at[rows, at].set(token, mode="drop"),
            logprobs=s.logprobs.at[rows, at].set(logprob, mode="drop"),
            steps=s.steps + 1,
        )

    def unfinished(carry: tuple[Array, SamplerState]) -> Array:
        return (carry[0] < steps) & (carry[1].live.sum() > enough)

    return jax.lax.while_loop(unfinished, body, (jnp.int32(0), state))[1]
