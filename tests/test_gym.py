"""Gymnasium's own checker passes; a turn limit truncates, and only the world terminates."""

import gymnasium
import pytest
from gymnasium.utils.env_checker import check_env

from hiperjax.envs.gym import AnyText, make_env


def test_gymnasium_accepts_the_environment():
    check_env(make_env("household"), skip_render_check=True)


@pytest.mark.parametrize("name", ["household-tiny", "ladder-subgoal"])
def test_the_limit_truncates(name):
    env = gymnasium.make(f"hiperjax.envs.gym:hiperjax/{name}-v0")
    text, info = env.reset(seed=3)
    assert text and info["admissible"] and info["task"] and info["task_id"]
    truncated = False
    for turn in range(1, 100):
        _, reward, terminated, truncated, info = env.step("no such command")
        assert not terminated and reward == 0 and not info["success"]
        if truncated:
            assert turn == env.spec.max_episode_steps
            break
    assert truncated


def test_a_chosen_task_played_to_its_end():
    env = gymnasium.make("hiperjax.envs.gym:hiperjax/household-tiny-v0")
    task = "household-tiny/seen/4"
    _, info = env.reset(options={"task_id": task})
    assert info["task_id"] == task
    terminated, rewards = False, []
    for command in env.unwrapped._env.game.walkthrough:
        assert not terminated
        _, reward, terminated, truncated, info = env.step(command)
        rewards.append(reward)
    assert terminated and not truncated and info["success"]
    assert rewards == [0.0] * (len(rewards) - 1) + [1.0]


def test_vectors_of_environments():
    envs = gymnasium.make_vec("hiperjax/household-tiny-v0", 3, vectorization_mode="sync")
    texts, _ = envs.reset(seed=0)
    assert len(set(texts)) > 1
    again, _ = envs.reset(seed=0)
    assert texts == again
    envs.close()


def test_any_string_is_in_the_space():
    space = AnyText(seed=0)
    assert space.contains("") and space.contains("ünïcode\n") and not space.contains(b"bytes")
    assert space.sample() in space and space == AnyText()
