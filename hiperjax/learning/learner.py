"""The learner: score a packed batch, turn it into credit, take the PPO update.

Everything here works on arrays; what an episode was is known only to packing. Shapes do not follow
the number of turns in a batch: loops run over the sequences in use, so one compilation serves a
whole training run.
"""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int, Key

from hiperjax.config import ConfigError, CreditConfig, CriticConfig, PpoConfig
from hiperjax.estimator_options import EstimatorOptions
from hiperjax.learning import least_squares
from hiperjax.learning.batches import (
    LearnerBatch,
    Scores,
    decision_scores,
    measure_mismatch,
    read,
    reply_logprobs,
    run_sequences,
)
from hiperjax.learning.credit.compare import compare_estimators, usable_estimators
from hiperjax.learning.credit.hae import bootstrap_last_turn
from hiperjax.learning.credit.inputs import (
    TERM,
    gather_inputs,
    list_targets,
    measure_credit,
    per_head,
    prepare_batch,
    token_values,
)
from hiperjax.learning.credit.registry import (
    ESTIMATORS,
    HEADS,
    Credit,
    CreditInputs,
    estimate,
    find_estimator,
)
from hiperjax.learning.losses import LossInputs, Metrics, ppo_loss, switch_rate_loss, value_loss
from hiperjax.learning.minibatches import (
    Counts,
    accumulate,
    global_norm,
    keep_where,
    make_order,
    run_steps,
)
from hiperjax.learning.scoring import score_batch
from hiperjax.learning.state import (
    CriticState,
    TrainState,
    init_features_critic,
    init_gradient_critic,
    init_state,
    reference_of,
    trunk_of,
)
from hiperjax.models.heads import random_features
from hiperjax.models.lora import combine, split_trained
from hiperjax.models.transformer import Params, TransformerConfig
from hiperjax.types import FinalPrompts, PackedBatch


class Learner:
    """Pure jitted steps over `TrainState`, bound to one configuration."""

    def __init__(
        self,
        model: TransformerConfig,
        *,
        credit: CreditConfig,
        critic: CriticConfig,
        ppo: PpoConfig,
        group_size: int = 1,
        temperature: float = 1.0,
        score_sequences: int = 0,
        iterations: int = 0,
    ):
        self.model, self.credit, self.critic, self.ppo = model, credit, critic, ppo
        self.estimator = find_estimator(credit.estimator, group_size)
        if self.estimator.per_token and critic.kind == "features":
            raise ConfigError(
                f"critic.kind is features, fitted at three places a turn; credit.estimator "
                f"{credit.estimator} needs a value at every token: critic.kind separate or shared"
            )
        # Nothing is kept for a backward pass: twice the micro-batch, if there is one.
        score_sequences = score_sequences or min(64, 2 * ppo.micro_sequences or 64)
        self.group_size, self.score_sequences = group_size, score_sequences
        self.temperature = temperature
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
        self.iterations = iterations if ppo.learning_rate_end < 1 else 0
        self._identity = (
            model, credit, critic, ppo, group_size, temperature, score_sequences,
            self.iterations,
        )  # fmt: skip
        self.trains_critic = critic.kind != "features" and self.estimator.needs_critic

    def __hash__(self) -> int:
        return hash(self._identity)

    def __eq__(self, other: object) -> bool:
        """Learners of one configuration share their compiled programs."""
        return isinstance(other, Learner) and self._identity == other._identity

    def init(self, policy: Params, key: Key[Array, ""]) -> TrainState:
        """A fresh state around policy parameters."""
        c, width = self.critic, self.model.hidden_size
        if c.kind == "features":
            critic = init_features_critic(key, width, c.random_features, c.memory)
        else:
            critic = init_gradient_critic(
                self.critic_optimizer, c.kind, policy, self.model, jax.random.fold_in(key, 1)
            )
        reference = self.ppo.kl_coefficient != 0
        return init_state(policy, self.model, self.optimizer, critic, reference=reference)

    # -- score ---------------------------------------------------------------------------------

    @partial(jax.jit, static_argnames="self")
    def score(
        self, state: TrainState, batch: PackedBatch, final: FinalPrompts, metered: Array
    ) -> Scores:
        """One pass for values and log-probs; see `scoring`."""
        return score_batch(
            batch,
            final,
            metered,
            policy=(state.policy, self.model),
            critic=None if state.critic.trunk is None else trunk_of(state, self.model),
            reference=reference_of(state, self.model) if self.ppo.kl_coefficient else None,
            heads=state.critic.heads if self.estimator.per_token else None,
            temperature=self.temperature,
            size=self.score_sequences,
        )

    def score_or_rescore(
        self, state: TrainState, batch: PackedBatch, final: FinalPrompts
    ) -> Scores:
        """Scores; where the sampler's log-probs are off by more than the bound, with the policy's
        own in place of them."""
        scores = self.score(state, batch, final, np.int32(self.score_sequences))
        if float(measure_mismatch(batch, scores)[1]) <= self.ppo.mismatch_bound:
            return scores
        if state.critic.trunk is not None:
            scores = self.score(state, batch, final, np.int32(batch.count))
        return scores._replace(rescored=jnp.asarray(True))

    # -- credit --------------------------------------------------------------------------------

    def _features(self, critic: CriticState, hidden: Array) -> Array:
        if critic.projection is None:
            return hidden.astype(jnp.float32)
        return random_features(hidden, critic.projection)

    def _estimate(self, inputs: CreditInputs) -> Credit:
        c = self.credit
        if c.bootstrap == "last_turn":
            inputs = bootstrap_last_turn(inputs)
        return estimate(c.estimator, inputs, **estimator_options(c))

    @partial(jax.jit, static_argnames="self")
    def compare(self, state: TrainState, batch: PackedBatch, inputs: CreditInputs) -> Metrics:
        """What every estimator that can says of this batch (see `lab`)."""
        names = [
            name
            for name in usable_estimators(inputs)
            if self.group_size > 1 or not ESTIMATORS[name].needs_groups
        ]
        signals = decision_scores(
            state.policy,
            self.model,
            batch,
            temperature=self.temperature,
            size=self.score_sequences,
        )
        found = compare_estimators(inputs, names, signals=signals, **estimator_options(self.credit))
        return {f"lab/{name}": value for name, value in found.items()}

    @partial(jax.jit, static_argnames="self", donate_argnames="state")
    def assign(
        self, state: TrainState, batch: PackedBatch, scores: Scores
    ) -> tuple[TrainState, LearnerBatch, CreditInputs, Metrics]:
        """Credit for every reply token; a least-squares critic is refitted on the way.

        Lambda-returns lean on the critic, so fit and returns are iterated a few times: more often
        on the first batch, so that no policy step is taken with a cold critic.
        """
        c, critic = self.credit, state.critic
        gather = partial(
            gather_inputs,
            features=self._features(critic, scores.value_hidden),
            final_features=self._features(critic, scores.final_hidden),
            batch=batch,
            token_values=scores.token_values,
            reward_scale=c.reward_scale,
            bootstrap=c.bootstrap == "proper",
            invalid_penalty=c.invalid_penalty,
            inadmissible_penalty=c.inadmissible_penalty,
            keep_penalty=c.keep_penalty,
            keep_penalty_mode=c.keep_penalty_mode,
            consistency_penalty=c.consistency_penalty,
        )
        if critic.memory is not None:
            critic = self._refit(critic, state.batches, gather, batch)
        inputs, terms = gather(critic.heads)
        credit = self._estimate(inputs)
        prepared = prepare_batch(
            credit,
            inputs,
            batch,
            scores,
            hierarchical=self.estimator.hierarchical,
            whitening=c.whitening,
            weights=(c.weight_low, c.weight_high, c.weight_term),
        )
        metrics = measure_credit(credit, terms, batch, scores, inputs, self.estimator.heads)
        state = state._replace(critic=critic, batches=state.batches + 1)
        return state, prepared, inputs, metrics

    def _refit(
        self, critic: CriticState, batches: Array, gather: partial, batch: PackedBatch
    ) -> CriticState:
        slot = batches % self.critic.memory

        def refit(_: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
            heads, memory = carry
            target, mask = list_targets(self._estimate(gather(heads)[0]), batch)
            moments = least_squares.measure(gather.keywords["features"], target, mask)
            memory = least_squares.remember(memory, moments, slot)
            return least_squares.solve(memory, self.critic.ridge), memory

        fits = jnp.where(batches == 0, self.critic.first_fits, self.critic.fits)
        heads, memory = jax.lax.fori_loop(0, fits, refit, (critic.heads, critic.memory))
        return critic._replace(heads=heads, memory=memory)

    # -- update --------------------------------------------------------------------------------

    def _policy_loss(
        self, frozen: Params, trained: tuple[Params, Any], part: LearnerBatch, counts: Counts
    ) -> tuple[Array, Metrics]:
        """Loss of a micro-batch, already divided by the counts of its whole minibatch."""
        policy, heads = combine(trained[0], frozen), trained[1]
        p = self.ppo
        hidden = run_sequences(policy, self.model, part.sequences)
        places = part.sequences.reply_place, part.reply_at, part.reply
        logprobs, entropy = reply_logprobs(policy, self.model, hidden, *places, self.temperature)
        out = ppo_loss(
            LossInputs(
                logprobs=logprobs,
                old_logprobs=part.old_logprobs,
                ref_logprobs=part.ref_logprobs if p.kl_coefficient else logprobs,
                entropy=entropy,
                advantage=part.advantage,
                mask=part.loss_mask,
            ),
            counts.tokens,
            clip=p.clip,
            dual_clip=p.dual_clip,
            kl_coefficient=p.kl_coefficient,
            entropy_coefficient=p.entropy_coefficient,
        )
        loss, metrics = out.loss, dict(out.metrics)
        if p.switch_rate_coefficient:
            rate = switch_rate_loss(
                logprobs,
                part.switch_tokens,
                part.switched,
                part.chose,
                counts.choices,
                counts.switch_rate,
                target=p.switch_rate_target,
            )
            loss += p.switch_rate_coefficient * rate.loss
            metrics |= rate.metrics
        if self.critic.kind == "shared" and self.trains_critic:
            value, value_metrics = self._value_loss(heads, hidden, part, counts)
            loss += self.critic.coefficient * value
            metrics |= value_metrics
        return loss, metrics

    def _value_loss(
        self, heads: Any, hidden: Array, part: LearnerBatch, counts: Counts
    ) -> tuple[Array, Metrics]:
        if part.tokens is None:
            names = HEADS
            values = per_head(heads, read(hidden, part.value_at))
            places = part.old_value, part.value_target, part.value_mask
        else:
            names, t = HEADS[TERM:], part.tokens
            values = token_values(heads, hidden, part.reply_at, part.reply.shape[-1])[..., None]
            places = t.old_value[..., None], t.target[..., None], t.mask[..., None]
        out = value_loss(
            values, *places, counts.values, value_clip=self.critic.value_clip, heads=names
        )
        return out.loss, out.metrics

    @partial(jax.jit, static_argnames="self", donate_argnames="state")
    def update(
        self,
        state: TrainState,
        batch: LearnerBatch,
        order: Int[Array, "M s"],
        steps: Int[Array, ""],
    ) -> tuple[TrainState, Metrics]:
        """PPO steps over the first `steps` minibatches that `order` lists (sequences of each).

        Returns means of the metrics. A step with a non-finite gradient is skipped and counted.
        """
        heads = self.critic.kind == "shared" and self.trains_critic

        def step(state: TrainState, index: Array) -> tuple[TrainState, Metrics]:
            part = jax.tree.map(lambda x: x[index], batch)
            policy, frozen = split_trained(state.policy, self.model)
            trained = (policy, state.critic.heads if heads else None)
            grads, metrics = accumulate(
                partial(self._policy_loss, frozen), trained, part, self.ppo.micro_sequences
            )
            norm = global_norm(grads)
            finite = jnp.isfinite(norm)
            stepped = self._apply(state, grads, heads)
            kept = keep_where(finite, stepped, state)
            skipped = jnp.where(finite, 0, state.skipped + 1)
            metrics |= {
                "grad_norm": norm,
                "skipped_steps": (1 - finite) * steps.astype(jnp.float32),
            }
            return kept._replace(skipped=skipped), metrics

        return run_steps(step, state, order, steps)

    def _rate(self, batches: Int[Array, ""]) -> Float[Array, ""]:
        """Share of the learning rate at the batch that is the run's number `batches`, from 1."""
        done = jnp.clip((batches - 1) / max(1, self.iterations - 1), 0.0, 1.0)
        return 1 - (1 - self.ppo.learning_rate_end) * done

    def _apply(self, state: TrainState, grads: tuple[Any, Any], heads: bool) -> TrainState:
        policy, frozen = split_trained(state.policy, self.model)
        moves, optimizer = self.optimizer.update(grads[0], state.optimizer, policy)
        moves = jax.tree.map(lambda move: self._rate(state.batches) * move, moves)
        policy, critic = combine(optax.apply_updates(policy, moves), frozen), state.critic  # type: ignore
        if heads:
            trained: Any = (critic.heads, None)
            moved: Any
            moved, heads_optimizer = self.critic_optimizer.update(
                (grads[1], None),  # type: ignore[arg-type]
                critic.optimizer,
                trained,
            )
            trained = optax.apply_updates(trained, moved)
            critic = critic._replace(heads=trained[0], optimizer=heads_optimizer)
        return state._replace(
            step=state.step + 1, policy=policy, optimizer=optimizer, critic=critic
        )

    @partial(jax.jit, static_argnames="self", donate_argnames="state")
    def fit_critic(
        self,
        state: TrainState,
        batch: LearnerBatch,
        order: Int[Array, "M s"],
        steps: Int[Array, ""],
    ) -> tuple[TrainState, Metrics]:
        """Gradient steps on the value loss alone: the critic's own network or adapters, or the
        shared heads on a trunk held still (their warm-up)."""
        frozen = split_trained(state.policy, self.model)[1]

        def loss(trained: Any, part: LearnerBatch, counts: Counts) -> tuple[Array, Metrics]:
            heads, trunk = trained
            trunk = state.policy if trunk is None else combine(trunk, frozen)
            hidden = run_sequences(trunk, self.model, part.sequences)
            return self._value_loss(heads, hidden, part, counts)

        def step(carry: Any, index: Array) -> tuple[Any, Metrics]:
            trained, optimizer = carry
            part = jax.tree.map(lambda x: x[index], batch)
            grads, metrics = accumulate(loss, trained, part, self.ppo.micro_sequences)
            finite = jnp.isfinite(global_norm(grads))
            moves, moved = self.critic_optimizer.update(grads, optimizer, trained)
            new = (optax.apply_updates(trained, moves), moved)
            return keep_where(finite, new, carry), metrics

        critic = state.critic
        start = ((critic.heads, critic.trunk), critic.optimizer)
        ((heads, trunk), optimizer), metrics = run_steps(step, start, order, steps)
        critic = critic._replace(heads=heads, trunk=trunk, optimizer=optimizer)
        return state._replace(critic=critic), metrics

    # -- the whole of it -----------------------------------------------------------------------

    def learn(
        self, state: TrainState, batch: PackedBatch, final: FinalPrompts, *, key: Key[Array, ""]
    ) -> tuple[TrainState, Metrics]:
        """Score, assign credit, fit the critic, update the policy: one iteration's learning."""
        number = int(state.batches)
        first = number == 0
        work = {"score": 0.0, "update": float(self.ppo.epochs)}
        scores = self._score_counted(state, batch, final, work)
        state, prepared, inputs, metrics = self.assign(state, batch, scores)
        if self.credit.compare_every and number % self.credit.compare_every == 0:
            metrics |= self.compare(state, batch, inputs)
        order = partial(make_order, count=batch.count, size=self.ppo.minibatch_sequences,
                        micro=self.ppo.micro_sequences,
                        total=batch.sequences.tokens.shape[0])  # fmt: skip
        fits = self.critic.warmup_epochs if first else self.ppo.epochs
        if self.trains_critic and (first or state.critic.trunk is not None) and fits:
            passes = order(jax.random.fold_in(key, 1), epochs=fits)
            work["update"] += fits
            state, value_metrics = self.fit_critic(state, prepared, *passes)
            metrics |= value_metrics
            if first:  # the credit once more, now that the critic is warm
                state = state._replace(batches=state.batches - 1)
                scores = self._score_counted(state, batch, final, work)
                state, prepared, _, _ = self.assign(state, batch, scores)
        state, policy_metrics = self.update(state, prepared, *order(key, epochs=self.ppo.epochs))
        metrics |= {f"passes/{name}": np.float32(count) for name, count in work.items()}
        return state, metrics | policy_metrics

    def _score_counted(
        self, state: TrainState, batch: PackedBatch, final: FinalPrompts, work: dict[str, float]
    ) -> Scores:
        """Scores, and how many passes over the batch they took, added to `work`."""
        scores = self.score_or_rescore(state, batch, final)
        work["score"] += 1 + (self.ppo.kl_coefficient != 0)
        if state.critic.trunk is not None:
            used = max(1, int(batch.count))
            work["score"] += min(1.0, self.score_sequences / used) + bool(scores.rescored)
        return scores


def estimator_options(credit: CreditConfig) -> dict[str, Any]:
    """The estimators' knobs, which bear the same names in the configuration."""
    return {
        field.name: getattr(credit, field.name) for field in dataclasses.fields(EstimatorOptions)
    }
