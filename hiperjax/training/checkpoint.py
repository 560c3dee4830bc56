"""Saving and restoring training state with Orbax: the last, the best and the first are kept.

A checkpoint is a folder written under another name and renamed when complete, so a run killed while
saving leaves no half-written one behind. `index.json` says which is which.
"""

import json
import pathlib
import shutil
from typing import Any, Literal, get_args

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental import multihost_utils

from hiperjax.files import write_json

INDEX = "index.json"
Which = Literal["last", "best", "start"]
"""Which of the states a run keeps: the newest, the best evaluated, the one before iteration 1."""


class CheckpointError(RuntimeError):
    """A checkpoint that is not there, not complete, or not of this architecture."""


def _shapes(tree: Any) -> dict[str, tuple]:
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(path): tuple(np.shape(leaf)) for path, leaf in leaves}


class Checkpoints:
    """The `checkpoints` folder of a run."""

    def __init__(self, folder: pathlib.Path):
        self.folder = folder.absolute()
        self._checkpointer = ocp.StandardCheckpointer()

    @property
    def index(self) -> dict[str, Any]:
        """`last` and `best`: iteration numbers; `meta`: what was saved beside the last state."""
        path = self.folder / INDEX
        if not path.is_file():
            raise CheckpointError(
                f"{self.folder}: no {INDEX}; expected the checkpoints folder of a run that saved "
                "at least once"
            )
        return json.loads(path.read_text())

    def exists(self) -> bool:
        """Whether anything was saved here."""
        return (self.folder / INDEX).is_file()

    def _path(self, iteration: int) -> pathlib.Path:
        return self.folder / f"iteration_{iteration:06d}"

    def save(self, iteration: int, state: Any, *, meta: dict[str, Any], best: bool) -> None:
        """Save and make it the last one (and the best one); remove what is neither."""
        self.folder.mkdir(parents=True, exist_ok=True)
        if not self._path(iteration).exists():
            self._checkpointer.save(self._path(iteration), state)
            self._checkpointer.wait_until_finished()
        index = self.index if self.exists() else {}
        index |= {"last": iteration, "meta": meta, "shapes": _listed(_shapes(state))}
        if best or "best" not in index:
            index["best"] = iteration
        index.setdefault("start", iteration)
        if jax.process_index() == 0:
            self._write(index)
        if jax.process_count() > 1:  # nobody reads the index before it is written
            multihost_utils.sync_global_devices(f"checkpoint {iteration}")

    def _write(self, index: dict[str, Any]) -> None:
        """The index, and away with the states it does not name."""
        write_json(self.folder / INDEX, index)
        for path in self.folder.glob("iteration_*"):
            if path not in [self._path(index[which]) for which in get_args(Which)]:
                shutil.rmtree(path)

    def restore(self, like: Any, which: Which = "last") -> tuple[int, Any]:
        """The state saved as `last` or `best`, in the structure, shapes and placement of `like`.

        Raises:
          CheckpointError: nothing saved, an incomplete checkpoint, or another architecture.
        """
        index = self.index
        path = self._path(index[which])
        if not path.is_dir():
            raise CheckpointError(
                f"{path}: missing, though {INDEX} names it as '{which}'; restore from another run"
            )
        expected, found = _shapes(like), {k: tuple(v) for k, v in index["shapes"].items()}
        for name in sorted({*expected, *found}):
            if expected.get(name) != found.get(name):
                raise CheckpointError(
                    f"{path}: another architecture: {name} has shape {found.get(name)}; expected "
                    f"{expected.get(name)}; use the config the checkpoint was made with"
                )
        try:
            state = self._checkpointer.restore(
                path, jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
            )
        except (ValueError, OSError, KeyError) as error:
            raise CheckpointError(
                f"{path}: cannot be read, perhaps half-written: {error}"
            ) from error
        return index[which], state


def _listed(shapes: dict[str, tuple]) -> dict[str, list[int]]:
    return {name: list(shape) for name, shape in shapes.items()}
