"""Commands beside training: parity checks, games, conversion of weights, capacity plans."""

import pathlib
from typing import Annotated, Literal

import tyro

from hiperjax.assembly import model_shape
from hiperjax.checkpoint import Which
from hiperjax.config import RunConfig
from hiperjax.envs.alfworld.export import write_games
from hiperjax.envs.alfworld.games import find_games_folder, format_stats, load_library
from hiperjax.envs.alfworld.scenes import Dials

Positional = tyro.conf.Positional
Folder = Annotated[pathlib.Path, Positional]


def verify_hae(file: Folder, /) -> int:
    """Replay recorded HAE examples through the public pipeline; exit 1 beyond 1e-4 relative.

    Args:
      file: JSON, an object with `examples` or a list of {config, input, expected}.
    """
    from hiperjax.verification.hae import verify_hae as run

    return run(file)


def verify_alfworld(
    *,
    games: pathlib.Path | None = None,
    transcripts: pathlib.Path | None = None,
    walkthroughs: bool = False,
    live: int = 0,
) -> int:
    """Compare the native engine with recordings of the real one, step by step.

    Args:
      games: games folder; default: $ALFWORLD_DATA or ~/.cache/alfworld.
      transcripts: JSON lines (plain or gz): game, reset observation, steps.
      walkthroughs: also play every game's shipped walkthrough, which must win.
      live: also so many seeded random walks against the installed real engine.
    """
    from hiperjax.verification.alfworld import verify_alfworld as run

    return run(find_games_folder(games), transcripts, walkthroughs=walkthroughs, live=live)


def verify_webshop(
    *,
    data: pathlib.Path,
    goals: pathlib.Path | None = None,
    search: pathlib.Path | None = None,
    episodes: pathlib.Path | None = None,
) -> int:
    """Compare the native WebShop with recordings of the original.

    Args:
      data: folder of the official files.
      goals: hashes of goal lists.
      search: analysed tokens and ranked lists.
      episodes: recorded episodes.
    """
    from hiperjax.verification.webshop import verify_webshop as run

    return run(data, goals, search, episodes)


def verify_model(
    *, checkpoint: pathlib.Path, reference: pathlib.Path, tolerance: float = 1e-3
) -> int:
    """Compare a checkpoint's logits with recorded ones; exit 1 beyond the tolerance.

    Args:
      checkpoint: Hugging Face or Orbax folder.
      reference: npz with input_ids, attention_mask, logits.
      tolerance: largest absolute difference allowed.
    """
    from hiperjax.verification.model import verify_model as run

    return run(checkpoint, reference, tolerance=tolerance)


def games_stats(folder: Annotated[pathlib.Path | None, Positional] = None, /) -> int:
    """Games by split and task type.

    Args:
      folder: games folder; default: $ALFWORLD_DATA or ~/.cache/alfworld.
    """
    print(format_stats(load_library(find_games_folder(folder))))
    return 0


def games_generate(
    folder: Folder,
    /,
    *,
    count: int = 60,
    split: Literal["train", "seen", "unseen"] = "train",
    size: Literal["tiny", "small", "full"] = "tiny",
    seed: int = 0,
) -> int:
    """Write generated games as game.tw-pddl files, which the real engine plays too.

    Args:
      folder: where to write; a subfolder a split.
      count: how many.
      split: which split's games.
      size: size of the rooms.
      seed: of the generator.
    """
    paths = write_games(folder, split, count, seed=seed, dials=Dials(size=size))
    print(f"{len(paths)} games below {folder / split}")
    return 0


def convert(
    direction: Annotated[Literal["hf-to-orbax", "orbax-to-hf", "run-to-hf"], Positional],
    source: Folder,
    target: Folder,
    /,
    *,
    which: Which = "best",
) -> int:
    """Convert a checkpoint folder; what is exported loads in transformers.

    Args:
      direction: from what to what; a run's policy is exported with its adapters merged.
      source: folder to read.
      target: folder to write; must be new or empty.
      which: of a run's states.
    """
    from hiperjax.models.convert import convert_hf_to_orbax, convert_orbax_to_hf

    if direction == "run-to-hf":
        from hiperjax.export import export_run

        export_run(source, target, which=which)
        print(f"{source}, {which} state -> {target}")
        return 0
    run = convert_hf_to_orbax if direction == "hf-to-orbax" else convert_orbax_to_hf
    run(source, target)
    print(f"{source} -> {target}")
    return 0


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
