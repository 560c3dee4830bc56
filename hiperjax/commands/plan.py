"""Memory and roofline times of a run, before anything is launched."""

import math
from typing import NamedTuple

from hiperjax.config import PromptConfig, RunConfig
from hiperjax.devices import site_of
from hiperjax.training.build import fit_sequences
from hiperjax.training.model import model_shape
from hiperjax.training.suites import build_suite

USUAL_PROMPT = 0.4
"""Mean prompt, as a share of the longest."""
USUAL_GROWTH = 0.16
"""What a later turn of a window adds beside its reply, as a share of a whole prompt; measured on
official ALFWorld games, chat style (`python -m experiments.benchmarks.windows`)."""
SUBGOAL_TURNS = 3
"""Turns under one subgoal, there."""
USUAL_TURNS = 0.46
"""Mean turns of an episode, as a share of the limit; from the official logs."""
ALFWORLD_LIMIT = 50
"""Turn limit of a world that cannot be made here."""


class Contexts(NamedTuple):
    """Mean tokens of a turn's prompt, and of its context with the reply."""

    prompt: float
    context: float


def estimate_contexts(prompt: PromptConfig, *, reply: int, turns: float) -> Contexts:
    """What a turn computes and looks back on, in episodes of so many turns."""
    whole = USUAL_PROMPT * prompt.prompt_length
    step = USUAL_GROWTH * whole + reply
    full = 1 + max(0.0, prompt.window_length - whole) / step
    wanted = {"turn": 1.0, "subgoal": float(SUBGOAL_TURNS), "episode": turns}[prompt.window]
    windows = max(1, math.ceil(turns / max(1.0, min(wanted, full))))
    length = turns / windows
    mean = (whole + (length - 1) * USUAL_GROWTH * whole) / length
    return Contexts(mean, whole + reply + (length - 1) / 2 * step)


def usual_turns(config: RunConfig) -> float:
    """Mean turns of an episode, from the turn limit: the run's own, or its world's.

    A plan needs no world: one whose files are elsewhere has the limit of ALFWorld.
    """
    limit = config.env.max_turns
    if limit is None:
        try:
            limit = build_suite(config, new=False).max_turns
        except (ValueError, OSError):  # what a suite refuses with
            limit = ALFWORLD_LIMIT
    return USUAL_TURNS * limit


def plan_capacity(
    config: RunConfig, device: str, *, vocab_size: int, turns: float | None = None
) -> str:
    """Memory and roofline times of a run, as a table, before anything is launched.

    Args:
      config: the run.
      device: name and count, such as h200 or v5e-8.
      vocab_size: vocabulary of a small model; published shapes have their own.
      turns: mean turns of an episode; None: what is usual under the turn limit.
    """
    from hiperjax.capacity import Workload, plan, render

    site, prompt, reply = site_of(device), config.prompt, min(48, config.prompt.reply_length)
    turns = usual_turns(config) if turns is None else turns
    config = fit_sequences(config, prefix=0)
    p, r = config.ppo, config.rollout
    mean = estimate_contexts(prompt, reply=reply, turns=turns)
    grows = prompt.window != "turn"
    load = Workload(
        turns=round(r.episodes * turns),
        prompt_tokens=round(mean.prompt),
        reply_tokens=reply,
        prompt_limit=prompt.prompt_length,
        reply_limit=prompt.reply_length,
        slots=r.slots,
        minibatch_rows=p.minibatch_sequences,
        micro_rows=p.micro_sequences or p.minibatch_sequences,
        row_length=p.sequence_length,
        row_replies=reply
        * (round(p.sequence_length / (mean.prompt + reply)) if grows else p.sequence_turns),
        epochs=p.epochs,
        context_tokens=round(mean.context) if grows else 0,
        context_limit=prompt.window_length if grows else 0,
    )
    found = plan(
        model_shape(config, vocab_size, platform=site.platform, memory=site.memory),
        device,
        load,
        critic=config.critic.kind,
        reference=config.ppo.kl_coefficient != 0,
        fsdp=config.mesh.fsdp,
        tensor=config.mesh.tensor,
        title=f"{config.preset}, episodes of {turns:g} turns,",
    )
    return render(found)
