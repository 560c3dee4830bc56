"""The learner: score a packed batch, turn it into credit, take the PPO update.

`TrainState` is one pytree, donated to `update` and saved as it is. Everything here works on arrays;
what an episode was is known only to packing.
"""

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, Key

from hiperjax.config import CreditConfig, CriticConfig, PpoConfig
from hiperjax.learning import critic as least_squares
from hiperjax.learning.advantages import (
    ESTIMATORS,
    Credit,
    CreditInputs,
    blocks_present,
    estimate,
    shape_rewards,
    spread,
    whiten,
)
from hiperjax.learning.losses import (
    LossInputs,
    Metrics,
    ppo_loss,
    switch_rate_loss,
    token_logprobs,
    value_loss,
)
from hiperjax.models.heads import apply_heads, init_heads, init_projection, random_features
from hiperjax.models.transformer import Params, TransformerConfig, forward, logits
from hiperjax.types import PackedBatch, TurnGrid, TurnRows


class CriticState(NamedTuple):
    """The value heads and what belongs to them; parts a kind of critic has no use for are None."""

    heads: Any
    trunk: Any
    """separate: parameters of the network of its own"""
    optimizer: Any
    """shared, separate"""
    projection: Any
    """features: the frozen random layer"""
    memory: Any
    """features: moments of the last batches"""


class TrainState(NamedTuple):
    """Everything that training changes, and the reference it is tied to."""

    step: Int[Array, ""]
    """optimizer steps of the policy"""
    batches: Int[Array, ""]
    """batches learned from"""
    skipped: Int[Array, ""]
    """consecutive policy steps skipped for a non-finite gradient"""
    policy: Params
    optimizer: Any
    critic: CriticState
    reference: Any
    """frozen parameters of the KL term; None where it is off"""


class Scores(NamedTuple):
    """What one forward pass reads of a batch."""

    value_hidden: Float[Array, "N 3 D"]
    """hidden state each head reads"""
    final_hidden: Float[Array, "B D"]
    """hidden state at the end of the prompt after the last turn"""
    logprobs: Float[Array, "N R"]
    ref_logprobs: Float[Array, "N R"]


class LearnerBatch(NamedTuple):
    """A batch ready for the update: `N` rows of `L` tokens, `R` reply positions."""

    tokens: Int[Array, "N L"]
    token_mask: Bool[Array, "N L"]
    reply_at: Int[Array, " N"]
    """position of the first reply token"""
    reply: Int[Array, "N R"]
    advantage: Float[Array, "N R"]
    loss_mask: Bool[Array, "N R"]
    old_logprobs: Float[Array, "N R"]
    ref_logprobs: Float[Array, "N R"]
    switch_tokens: Bool[Array, "N R"]
    switched: Bool[Array, " N"]
    chose: Bool[Array, " N"]
    """rows that could have kept or switched: well-formed, not turn 0"""
    value_at: Int[Array, "N 3"]
    value_target: Float[Array, "N 3"]
    value_mask: Bool[Array, "N 3"]
    old_value: Float[Array, "N 3"]


def take_reply(x: Array, start: Int[Array, " N"], length: int) -> Array:
    """Columns `start .. start + length - 1` of each row (clipped to its end)."""
    at = jnp.clip(start[:, None] + jnp.arange(length), 0, x.shape[1] - 1)
    return jnp.take_along_axis(x, at.reshape(*at.shape, *(1,) * (x.ndim - 2)), axis=1)


def reply_logprobs(
    params: Params,
    config: TransformerConfig,
    hidden: Float[Array, "n L D"],
    start: Int[Array, " n"],
    reply: Int[Array, "n R"],
) -> tuple[Float[Array, "n R"], Float[Array, "n R"]]:
    """Log-probs and entropies at reply positions only: each is read one token earlier."""
    before = take_reply(hidden, start - 1, reply.shape[1])
    return token_logprobs(logits(params, config, before), reply)


class Learner:
    """Pure jitted steps over `TrainState`, bound to one configuration."""

    def __init__(
        self,
        model: TransformerConfig,
        *,
        credit: CreditConfig,
        critic: CriticConfig,
        ppo: PpoConfig,
        score_rows: int = 128,
    ):
        self.model, self.credit, self.critic, self.ppo = model, credit, critic, ppo
        self.estimator = ESTIMATORS[credit.estimator]
        self.score_rows = score_rows
        rate = optax.linear_schedule(
            ppo.learning_rate / (ppo.warmup_steps + 1), ppo.learning_rate, ppo.warmup_steps
        )
        self.optimizer = optax.chain(
            optax.clip_by_global_norm(ppo.grad_clip),
            optax.adamw(rate, b2=ppo.beta2, weight_decay=ppo.weight_decay),
        )
        self.critic_optimizer = optax.chain(
            optax.clip_by_global_norm(ppo.grad_clip), optax.adamw(critic.learning_rate)
        )

    # -- state ---------------------------------------------------------------------------------

    def init(self, policy: Params, key: Key[Array, ""]) -> TrainState:
        """A fresh state around policy parameters; the reference is a copy of them."""
        copy = partial(jax.tree.map, jnp.copy)
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            batches=jnp.zeros((), jnp.int32),
            skipped=jnp.zeros((), jnp.int32),
            policy=policy,
            optimizer=self.optimizer.init(policy),
            critic=self._init_critic(policy, key),
            reference=copy(policy) if self.ppo.kl_coefficient else None,
        )

    def _init_critic(self, policy: Params, key: Key[Array, ""]) -> CriticState:
        width, c = self.model.hidden_size, self.critic
        if c.kind == "features":
            features = width + c.random_features
            return CriticState(
                heads=init_heads(features),
                trunk=None,
                optimizer=None,
                projection=init_projection(key, width, c.random_features),
                memory=least_squares.empty_memory(features, c.memory),
            )
        heads = init_heads(width)
        trunk = jax.tree.map(jnp.copy, policy) if c.kind == "separate" else None
        return CriticState(heads, trunk, self.critic_optimizer.init((heads, trunk)), None, None)

    # -- score ---------------------------------------------------------------------------------

    @partial(jax.jit, static_argnames=("self", "reply_length"))
    def score(
        self,
        state: TrainState,
        rows: TurnRows,
        final_tokens: Int[Array, "B P"],
        final_lengths: Int[Array, " B"],
        *,
        reply_length: int,
    ) -> Scores:
        """One pass over the rows for values and log-probs, in slices of `score_rows`."""
        trunk = state.policy if state.critic.trunk is None else state.critic.trunk

        def score_slice(part: TurnRows) -> tuple[Array, Array, Array]:
            start = jnp.argmax(part.response_mask, axis=1).astype(jnp.int32)
            reply = take_reply(part.tokens, start, reply_length)

            def run(params: Params) -> tuple[Array, Array]:
                hidden = forward(params, self.model, part.tokens, token_mask=part.token_mask)
                return hidden, reply_logprobs(params, self.model, hidden, start, reply)[0]

            hidden, logprobs = run(state.policy)
            values = hidden
            if state.critic.trunk is not None:
                values = forward(trunk, self.model, part.tokens, token_mask=part.token_mask)
            ref = logprobs if state.reference is None else run(state.reference)[1]
            return jnp.take_along_axis(values, part.value_at[..., None], axis=1), logprobs, ref

        value_hidden, logprobs, ref = _map_slices(score_slice, rows, self.score_rows)

        def score_final(part: tuple[Array, Array]) -> Array:
            hidden = forward(trunk, self.model, part[0], lengths=part[1])
            return jnp.take_along_axis(hidden, (part[1] - 1)[:, None, None], axis=1)[:, 0]

        final = _map_slices(score_final, (final_tokens, final_lengths), self.score_rows)
        return Scores(value_hidden, final, logprobs, ref)

    # -- credit --------------------------------------------------------------------------------

    def _features(self, critic: CriticState, hidden: Array) -> Array:
        if critic.projection is None:
            return hidden.astype(jnp.float32)
        return random_features(hidden, critic.projection)

    def _credit_inputs(
        self, heads: Any, features: Array, final: Array, grid: TurnGrid, rows: TurnRows
    ) -> tuple[CreditInputs, dict[str, Array]]:
        c = self.credit
        values = _per_head(heads, features)
        on_grid = jnp.where(grid.mask[..., None], values[grid.row], 0.0)
        malformed = grid.mask & ~grid.well_formed
        reward, terms = shape_rewards(
            c.reward_scale * grid.reward,
            grid.mask,
            grid.mask & ~grid.boundary,
            invalid=malformed,
            keep_violation=grid.keep_violation,
            invalid_penalty=c.invalid_penalty,
            keep_penalty=c.keep_penalty,
            keep_penalty_mode=c.keep_penalty_mode,
            consistency_penalty=c.consistency_penalty,
        )
        # After a cut the next turn may keep or switch: its value is the one before that choice.
        bootstrap = apply_heads(heads, final)[:, 2]
        has_switch, has_subgoal = blocks_present(rows, grid)
        inputs = CreditInputs(
            reward=reward,
            mask=grid.mask,
            boundary=grid.boundary,
            terminated=grid.terminated,
            v_low=on_grid[..., 0],
            v_high=on_grid[..., 1],
            v_term=on_grid[..., 2],
            bootstrap_low=bootstrap,
            bootstrap_high=bootstrap,
            bootstrap_term=bootstrap,
            low_fit=grid.mask & grid.well_formed,
            has_subgoal=has_subgoal,
            has_switch=has_switch,
            success=grid.success,
            group_id=grid.group_id,
            state_id=grid.state_id,
            final_state_id=grid.final_state_id,
            invalid=malformed,
            n_tok=grid.reply_tokens,
        )
        return inputs, terms

    def _estimate(self, inputs: CreditInputs) -> Credit:
        c = self.credit
        return estimate(
            c.estimator,
            inputs,
            gamma=c.gamma,
            lambda_turn=c.lambda_turn,
            lambda_segment=c.lambda_segment,
            lambda_boundary=c.lambda_boundary,
            v_high_targets=c.v_high_targets,
        )

    @partial(jax.jit, static_argnames="self", donate_argnames="state")
    def assign(
        self, state: TrainState, batch: PackedBatch, scores: Scores
    ) -> tuple[TrainState, LearnerBatch, CreditInputs, Metrics]:
        """Credit for every reply token; a least-squares critic is refitted on the way.

        Lambda-returns lean on the critic, so fit and returns are iterated a few times: more often
        on the first batch, so that no policy step is taken with a cold critic.
        """
        rows, grid = batch
        critic = state.critic
        features = self._features(critic, scores.value_hidden)
        final = self._features(critic, scores.final_hidden)
        if critic.memory is not None:
            slot = state.batches % self.critic.memory

            def refit(_: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
                heads, memory = carry
                inputs, _terms = self._credit_inputs(heads, features, final, grid, rows)
                target, mask = _targets(self._estimate(inputs), grid, rows)
                new = least_squares.measure(features, target, mask)
                memory = least_squares.remember(memory, new, slot)
                return least_squares.solve(memory, self.critic.ridge), memory

            fits = jnp.where(state.batches == 0, self.critic.first_fits, self.critic.fits)
            heads, memory = jax.lax.fori_loop(0, fits, refit, (critic.heads, critic.memory))
            critic = critic._replace(heads=heads, memory=memory)
        inputs, terms = self._credit_inputs(critic.heads, features, final, grid, rows)
        credit = self._estimate(inputs)
        state = state._replace(critic=critic, batches=state.batches + 1)
        learner_batch, metrics = self._prepare(credit, inputs, batch, scores)
        metrics |= {f"reward_{name}": _episode_mean(term, grid) for name, term in terms.items()}
        return state, learner_batch, inputs, metrics

    def _prepare(
        self, credit: Credit, inputs: CreditInputs, batch: PackedBatch, scores: Scores
    ) -> tuple[LearnerBatch, Metrics]:
        rows, grid = batch
        c = self.credit
        streams = (
            (credit.adv_low, credit.mask_low),
            (credit.adv_high, credit.mask_high),
            (credit.adv_term, credit.mask_term),
        )
        advantage, loss_mask = spread(
            *(whiten(adv, mask, c.whitening) for adv, mask in streams),
            rows,
            grid,
            hierarchical=self.estimator.hierarchical,
            w_low=c.weight_low,
            w_high=c.weight_high,
            w_term=c.weight_term,
        )
        start = jnp.argmax(rows.response_mask, axis=1).astype(jnp.int32)
        length = scores.logprobs.shape[1]
        cut = partial(take_reply, start=start, length=length)
        in_reply = cut(rows.response_mask) & rows.row_mask[:, None]
        # Columns past a row's end are clipped onto its last token: keep them out of every mask.
        real = start[:, None] + jnp.arange(length) < rows.tokens.shape[1]
        in_reply = in_reply & real
        behavior = cut(rows.behavior_logprobs)
        target, value_mask = _targets(credit, grid, rows)
        first = jnp.arange(grid.mask.shape[1]) == 0
        chose = grid.mask & grid.well_formed & ~first
        learner_batch = LearnerBatch(
            tokens=rows.tokens,
            token_mask=rows.token_mask,
            reply_at=start,
            reply=cut(rows.tokens),
            advantage=cut(advantage),
            loss_mask=cut(loss_mask) & in_reply,
            old_logprobs=behavior,
            ref_logprobs=scores.ref_logprobs,
            switch_tokens=cut(rows.switch_mask) & in_reply,
            switched=_to_rows(grid.boundary, grid, rows),
            chose=_to_rows(chose, grid, rows),
            value_at=rows.value_at,
            value_target=target,
            value_mask=value_mask,
            old_value=_to_rows(
                jnp.stack([inputs.v_low, inputs.v_high, inputs.v_term], axis=-1), grid, rows
            ),
        )
        gap = jnp.where(in_reply, jnp.abs(scores.logprobs - behavior), 0.0)
        metrics = {
            "mismatch_max": gap.max(),
            "mismatch_mean": gap.sum() / jnp.maximum(in_reply.sum(), 1),
        }
        names = ("low", "high", "term")
        for name, (adv, mask) in zip(names, streams, strict=True):
            count = jnp.maximum(mask.sum(), 1)
            mean = jnp.sum(jnp.where(mask, adv, 0.0)) / count
            metrics[f"advantage_mean_{name}"] = mean
            metrics[f"advantage_std_{name}"] = jnp.sqrt(
                jnp.sum(jnp.where(mask, (adv - mean) ** 2, 0.0)) / count
            )
        for i, name in enumerate(names):
            if name in self.estimator.heads:
                metrics[f"explained_variance_{name}"] = _explained_variance(
                    learner_batch.old_value[:, i], target[:, i], value_mask[:, i]
                )
        return learner_batch, metrics

    # -- update --------------------------------------------------------------------------------

    def _policy_loss(
        self, trained: tuple[Params, Any], part: LearnerBatch, counts: tuple[Array, Array, Array]
    ) -> tuple[Array, Metrics]:
        """Loss of a micro-batch, already divided by the counts of its whole minibatch."""
        policy, heads = trained
        hidden = forward(policy, self.model, part.tokens, token_mask=part.token_mask)
        logprobs, entropy = reply_logprobs(policy, self.model, hidden, part.reply_at, part.reply)
        p = self.ppo
        out = ppo_loss(
            LossInputs(
                logprobs=logprobs,
                old_logprobs=part.old_logprobs,
                ref_logprobs=part.ref_logprobs if p.kl_coefficient else logprobs,
                entropy=entropy,
                advantage=part.advantage,
                mask=part.loss_mask,
            ),
            counts[0],
            clip=p.clip,
            dual_clip=p.dual_clip,
            kl_coefficient=p.kl_coefficient,
            entropy_coefficient=p.entropy_coefficient,
        )
        loss, metrics = out.loss, dict(out.metrics)
        if p.switch_rate_coefficient:
            rate = switch_rate_loss(
                logprobs, part.switch_tokens, part.switched, part.chose, p.switch_rate_target
            )
            metrics["switch_rate_loss"] = rate * counts[2]
            loss += p.switch_rate_coefficient * metrics["switch_rate_loss"]
        if self.critic.kind == "shared" and self.estimator.needs_critic:
            value = self._value_loss(heads, hidden, part, counts[1])
            loss += self.critic.coefficient * value.loss
            metrics |= value.metrics
        return loss, metrics

    def _value_loss(self, heads: Any, hidden: Array, part: LearnerBatch, counts: Array):
        read = jnp.take_along_axis(hidden, part.value_at[..., None], axis=1)
        return value_loss(
            _per_head(heads, read),
            part.old_value,
            part.value_target,
            part.value_mask,
            counts,
            value_clip=self.critic.value_clip,
        )

    def _accumulate(self, loss_fn: Any, trained: Any, part: LearnerBatch) -> tuple[Any, Metrics]:
        """Gradient and metrics of a minibatch, micro-batch by micro-batch."""
        rows = part.tokens.shape[0]
        micro = self.ppo.micro_rows or rows
        pieces = jnp.float32(micro / rows)
        counts = (
            jnp.maximum(part.loss_mask.sum(), 1).astype(jnp.float32),
            jnp.maximum(part.value_mask.sum(axis=0), 1).astype(jnp.float32),
            pieces,
        )
        grad = jax.grad(loss_fn, has_aux=True)
        if micro == rows:
            return grad(trained, part, counts)
        split = jax.tree.map(lambda x: x.reshape(-1, micro, *x.shape[1:]), part)

        def add(total: Any, piece: LearnerBatch) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, total, grad(trained, piece, counts)), None

        shapes = jax.eval_shape(grad, trained, jax.tree.map(lambda x: x[0], split), counts)
        zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        return jax.lax.scan(add, zero, split)[0]

    @partial(jax.jit, static_argnames="self", donate_argnames="state")
    def update(
        self, state: TrainState, batch: LearnerBatch, order: Int[Array, "M n"]
    ) -> tuple[TrainState, Metrics]:
        """PPO steps over the minibatches that `order` lists (rows of each); means of the metrics.

        A step with a non-finite gradient is skipped and counted.
        """
        shared = self.critic.kind == "shared" and self.estimator.needs_critic

        def step(state: TrainState, index: Array) -> tuple[TrainState, Metrics]:
            part = jax.tree.map(lambda x: x[index], batch)
            trained = (state.policy, state.critic.heads if shared else None)
            grads, metrics = self._accumulate(self._policy_loss, trained, part)
            norm = optax.global_norm(grads)
            finite = jnp.isfinite(norm)
            metrics |= {"grad_norm": norm, "skipped_steps": 1.0 - finite}
            stepped = self._apply(state, grads, shared)
            kept = jax.tree.map(lambda new, old: jnp.where(finite, new, old), stepped, state)
            skipped = jnp.where(finite, 0, state.skipped + 1)
            return kept._replace(skipped=skipped), metrics

        state, metrics = jax.lax.scan(step, state, order)
        return state, jax.tree.map(jnp.mean, metrics) | {
            "skipped_steps": metrics["skipped_steps"].sum()
        }

    def _apply(self, state: TrainState, grads: tuple[Any, Any], shared: bool) -> TrainState:
        moves, optimizer = self.optimizer.update(grads[0], state.optimizer, state.policy)
        policy = optax.apply_updates(state.policy, moves)
        critic = state.critic
        if shared:
            trained = (critic.heads, None)
            moves, critic_optimizer = self.critic_optimizer.update(
                (grads[1], None), critic.optimizer, trained
            )
            heads = optax.apply_updates(critic.heads, moves[0])
            critic = critic._replace(heads=heads, optimizer=critic_optimizer)
        return state._replace(
            step=state.step + 1, policy=policy, optimizer=optimizer, critic=critic
        )

    @partial(jax.jit, static_argnames="self", donate_argnames="state")
    def fit_critic(
        self, state: TrainState, batch: LearnerBatch, order: Int[Array, "M n"]
    ) -> tuple[TrainState, Metrics]:
        """Gradient steps on the value loss alone: the separate network, or the shared heads on a
        trunk held still (their warm-up)."""

        def loss(trained: Any, part: LearnerBatch, counts: Any) -> tuple[Array, Metrics]:
            heads, trunk = trained
            trunk = jax.lax.stop_gradient(state.policy) if trunk is None else trunk
            hidden = forward(trunk, self.model, part.tokens, token_mask=part.token_mask)
            out = self._value_loss(heads, hidden, part, counts[1])
            return out.loss, out.metrics

        def step(carry: Any, index: Array) -> tuple[Any, Metrics]:
            trained, optimizer = carry
            part = jax.tree.map(lambda x: x[index], batch)
            grads, metrics = self._accumulate(loss, trained, part)
            finite = jnp.isfinite(optax.global_norm(grads))
            moves, moved = self.critic_optimizer.update(grads, optimizer, trained)
            new = (optax.apply_updates(trained, moves), moved)
            return jax.tree.map(lambda a, b: jnp.where(finite, a, b), new, carry), metrics

        critic = state.critic
        start = ((critic.heads, critic.trunk), critic.optimizer)
        ((heads, trunk), optimizer), metrics = jax.lax.scan(step, start, order)
        critic = critic._replace(heads=heads, trunk=trunk, optimizer=optimizer)
        return state._replace(critic=critic), jax.tree.map(jnp.mean, metrics)

    # -- the whole of it -----------------------------------------------------------------------

    def learn(
        self,
        state: TrainState,
        batch: PackedBatch,
        final: tuple[np.ndarray, np.ndarray],
        *,
        key: Key[Array, ""],
        reply_length: int,
    ) -> tuple[TrainState, Metrics]:
        """Score, assign credit, fit the critic, update the policy: one iteration's learning."""
        first = int(state.batches) == 0
        scores = self.score(state, batch.rows, *final, reply_length=reply_length)
        state, learner_batch, _, metrics = self.assign(state, batch, scores)
        rows = int(np.sum(batch.rows.row_mask))
        total = batch.rows.tokens.shape[0]
        if self.critic.kind != "features" and self.estimator.needs_critic:
            state, learner_batch, value_metrics = self._learn_values(
                state, batch, learner_batch, final, key, first, reply_length
            )
            metrics |= value_metrics
        order = make_order(key, rows, total, self.ppo.minibatch_rows, self.ppo.epochs)
        state, policy_metrics = self.update(state, learner_batch, order)
        return state, metrics | policy_metrics

    def _learn_values(
        self, state, batch, learner_batch, final, key, first, reply_length
    ) -> tuple[TrainState, LearnerBatch, Metrics]:
        """Critic steps. A cold critic is warmed up first, and the credit taken anew with it."""
        rows, total = int(np.sum(batch.rows.row_mask)), batch.rows.tokens.shape[0]
        epochs = self.critic.warmup_epochs if first else self.ppo.epochs
        if self.critic.kind == "shared" and not first:
            return state, learner_batch, {}
        order = make_order(
            jax.random.fold_in(key, 1), rows, total, self.ppo.minibatch_rows, max(1, epochs)
        )
        state, metrics = self.fit_critic(state, learner_batch, order)
        if first:
            scores = self.score(state, batch.rows, *final, reply_length=reply_length)
            state = state._replace(batches=state.batches - 1)
            state, learner_batch, _, _ = self.assign(state, batch, scores)
        return state, learner_batch, metrics


def make_order(
    key: Key[Array, ""], rows: int, total: int, size: int, epochs: int
) -> Int[np.ndarray, "M n"]:
    """Minibatches of `epochs` random passes over `rows` rows out of `total` (the rest is padding).

    The last minibatch of a pass is filled with padding rows, which weigh nothing.

    Raises:
      ValueError: `total` leaves no room to fill up the last minibatch.
    """
    steps = -(-rows // size)
    if steps * size > total:
        raise ValueError(f"{total} packed rows; expected a multiple of the minibatch, {size}")
    seed = np.asarray(jax.random.key_data(key)).ravel()
    rng = np.random.default_rng(seed.tolist())
    passes = []
    for _ in range(epochs):
        order = np.concatenate([rng.permutation(rows), np.arange(rows, steps * size)])
        passes.append(order.reshape(steps, size))
    return np.concatenate(passes).astype(np.int32)


def _map_slices(function: Any, tree: Any, size: int) -> Any:
    """`function` over leading-axis slices of `size`; the axis is padded to a whole number."""
    count = jax.tree.leaves(tree)[0].shape[0]
    slices = -(-count // size)

    def split(x: Array) -> Array:
        pad = [(0, slices * size - count)] + [(0, 0)] * (x.ndim - 1)
        return jnp.pad(x, pad).reshape(slices, size, *x.shape[1:])

    out = jax.lax.map(function, jax.tree.map(split, tree))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], out)


def _per_head(heads: Any, features: Float[Array, "n 3 F"]) -> Float[Array, "n 3"]:
    """Each head at its own place."""
    values = jnp.einsum("nhf,fh->nh", features.astype(jnp.float32), heads["kernel"])
    return values + heads["bias"]


def _to_rows(x: Array, grid: TurnGrid, rows: TurnRows) -> Array:
    """Grid scalars to their rows; rows of no turn are zero."""
    n = rows.row_mask.shape[0]
    at = jnp.where(grid.mask, grid.row, n)
    return jnp.zeros((n, *x.shape[2:]), x.dtype).at[at].set(x, mode="drop")


def _targets(credit: Credit, grid: TurnGrid, rows: TurnRows) -> tuple[Array, Array]:
    """Value targets and fit masks of the three heads, by row."""
    target = jnp.stack([credit.ret_low, credit.ret_high, credit.ret_term], axis=-1)
    mask = jnp.stack([credit.fit_low, credit.fit_high, credit.fit_term], axis=-1)
    return _to_rows(target, grid, rows), _to_rows(mask, grid, rows)


def _explained_variance(values: Array, targets: Array, mask: Array) -> Array:
    """1 - Var(target - value) / Var(target) over the places a head is fitted at."""

    def variance(x: Array) -> Array:
        count = jnp.maximum(mask.sum(), 1)
        mean = jnp.sum(jnp.where(mask, x, 0.0)) / count
        return jnp.sum(jnp.where(mask, (x - mean) ** 2, 0.0)) / count

    return 1 - variance(targets - values) / jnp.maximum(variance(targets), 1e-8)


def _episode_mean(term: Array, grid: TurnGrid) -> Array:
    """Mean over episodes of a per-turn term's sum."""
    return term.sum() / jnp.maximum(grid.mask.any(axis=1).sum(), 1)


__all__ = ["CriticState", "Learner", "LearnerBatch", "Scores", "TrainState", "make_order"]
