"""Memory and roofline times of a run, before anything is launched."""

from hiperjax.config import RunConfig
from hiperjax.training.build import model_shape


def plan_capacity(config: RunConfig, device: str, *, vocab_size: int, turns: float) -> str:
    """Memory and roofline times of a run, as a table, before anything is launched.

    Args:
      config: the run.
      device: name and count, such as h200 or v5e-8.
      vocab_size: of a small model; published shapes have their own.
      turns: mean turns of an episode.
    """
    from hiperjax.capacity import Workload, plan, render

    p, r, prompt = config.ppo, config.rollout, config.prompt
    load = Workload(
        turns=round(r.episodes * turns),
        prompt_tokens=round(0.4 * prompt.prompt_length),
        reply_tokens=min(48, prompt.reply_length),
        prompt_limit=prompt.prompt_length,
        reply_limit=prompt.reply_length,
        slots=r.slots,
        minibatch_rows=p.minibatch_sequences,
        micro_rows=p.micro_sequences or p.minibatch_sequences,
        row_length=p.sequence_length,
        row_replies=p.sequence_turns * min(48, prompt.reply_length),
        epochs=p.epochs,
    )
    found = plan(
        model_shape(config, vocab_size),
        device,
        load,
        critic=config.critic.kind,
        reference=config.ppo.kl_coefficient != 0,
        fsdp=config.mesh.fsdp,
        tensor=config.mesh.tensor,
        title=f"{config.preset}, episodes of {turns:g} turns,",
    )
    return render(found)
