"""Parity with recorded references."""

import pathlib

from hiperjax.commands.arguments import Folder
from hiperjax.envs.alfworld.games import find_games_folder


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
