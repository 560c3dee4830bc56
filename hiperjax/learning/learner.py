"""The learner: score a packed batch, turn it into credit, take the PPO update.

Everything here works on arrays; what an episode was is known only to packing. Shapes do not follow
the number of turns in a batch: loops run over the sequences in use, so one compilation serves a
whole training run.
"""

from dataclasses import fields
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Int, Key

from hiperjax.config import CreditConfig, CriticConfig, PpoConfig
from hiperjax.learning import least_squares, objectives
from hiperjax.learning.batches import (
    LearnerBatch,
    Scores,
    decision_scores,
    measure_mismatch,
    reply_logprobs,
    run_sequences,
)
from hiperjax.learning.credit.compare import compare_estimators, usable_estimators
from hiperjax.learning.credit.inputs import gather_inputs
from hiperjax.learning.credit.measure import measure_credit
from hiperjax.learning.credit.registry import assign_credit, check_choice, find_estimator
from hiperjax.learning.credit.shaping import SETTINGS
from hiperjax.learning.credit.tokens import list_targets, prepare_batch
from hiperjax.learning.credit.types import Credit, CreditInputs
from hiperjax.learning.losses import Metrics
from hiperjax.learning.minibatches import (
    Counts,
    accumulate,
    all_finite,
    global_norm,
    keep_where,
    make_order,
    run_steps,
    split_into_minibatches,
)
from hiperjax.learning.optimizers import make_critic_optimizer, make_policy_optimizer, share_at
from hiperjax.learning.scoring import score_batch
from hiperjax.learning.state import (
    CriticState,
    LearnResult,
    TrainState,
    Work,
    features_of,
    init_features_critic,
    init_gradient_critic,
    init_state,
    reference_of,
    trunk_of,
)
from hiperjax.models.lora import combine, split_trained
from hiperjax.models.transformer import Params, TransformerConfig
from hiperjax.options.estimators import EstimatorOptions
from hiperjax.types import FinalPrompts, PackedBatch

Order = Int[Array, "M s"]
"""Numbers of the sequences of each optimizer step."""


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
        reply_length: int = 512,
    ):
        self.model, self.credit, self.critic, self.ppo = model, credit, critic, ppo
        self.options = {f.name: getattr(credit, f.name) for f in fields(EstimatorOptions)}
        kinds: Any = {"critic": critic.kind, "switch_cost": credit.switch_cost}
        self.estimator = check_choice(credit.estimator, group_size=group_size, **kinds)
        # Nothing is kept for a backward pass: twice the micro-batch, if there is one.
        score_sequences = score_sequences or min(64, 2 * ppo.micro_sequences or 64)
        self.group_size, self.score_sequences = group_size, score_sequences
        self.temperature, self.reply_length = temperature, reply_length
        self.accumulate = partial(accumulate, micro=ppo.micro_sequences, dtype=model.dtype)
        self.optimizer = make_policy_optimizer(
            learning_rate=ppo.learning_rate,
            warmup_steps=ppo.warmup_steps,
            beta2=ppo.beta2,
            weight_decay=ppo.weight_decay,
            grad_clip=ppo.grad_clip,
        )
        self.critic_optimizer = make_critic_optimizer(
            learning_rate=critic.learning_rate, grad_clip=ppo.grad_clip
        )
        self.iterations = iterations if ppo.learning_rate_end < 1 else 0
        self._identity = (
            *(model, credit, critic, ppo, group_size, temperature, score_sequences),
            *(self.iterations, reply_length),
        )
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

    @partial(jax.jit, static_argnames="self")
    def score(
        self,
        state: TrainState,
        batch: PackedBatch,
        final: FinalPrompts | None,
        num_logprob_sequences: Array,
    ) -> Scores:
        """One pass for values and log-probs; see `scoring`."""
        return score_batch(
            batch,
            final,
            num_logprob_sequences,
            policy=(state.policy, self.model),
            critic=None if state.critic.trunk is None else trunk_of(state, self.model),
            reference=reference_of(state, self.model) if self.ppo.kl_coefficient else None,
            heads=state.critic.heads if self.estimator.per_token else None,
            temperature=self.temperature,
            size=self.score_sequences,
        )

    def score_or_rescore(
        self, state: TrainState, batch: PackedBatch, final: FinalPrompts | None
    ) -> tuple[Scores, float]:
        """Scores, and how many passes over the batch they took.

        Where the sampler's log-probs are off by more than the bound, the policy's own stand in
        place of them.
        """
        scores = self.score(state, batch, final, np.int32(self.score_sequences))
        passes = 1.0 + (self.ppo.kl_coefficient != 0)
        own_trunk = state.critic.trunk is not None
        if own_trunk:
            passes += min(1.0, self.score_sequences / max(1, int(batch.count)))
        if float(measure_mismatch(batch, scores)[1]) <= self.ppo.mismatch_bound:
            return scores, passes
        if own_trunk:
            scores = self.score(state, batch, final, np.int32(batch.count))
            passes += 1
        return scores._replace(rescored=jnp.asarray(True)), passes

    def credit_of(self, inputs: CreditInputs) -> Credit:
        """Credit by turn, before whitening."""
        c = self.credit
        kinds = {"bootstrap": c.bootstrap, "switch_cost": c.switch_cost}
        return assign_credit(c.estimator, inputs, **kinds, **self.options)

    @partial(jax.jit, static_argnames="self")
    def compare(self, state: TrainState, batch: PackedBatch, inputs: CreditInputs) -> Metrics:
        """What every estimator that can says of this batch (see `credit.compare`)."""
        names = [
            name
            for name in usable_estimators(inputs)
            if self.group_size > 1 or not find_estimator(name).needs_groups
        ]
        signals = decision_scores(
            state.policy,
            self.model,
            batch,
            temperature=self.temperature,
            size=self.score_sequences,
        )
        found = compare_estimators(inputs, names, signals=signals, **self.options)
        return {f"compare/{name}": value for name, value in found.items()}

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
            features=features_of(critic, scores.value_hidden),
            final_features=features_of(critic, scores.final_hidden),
            batch=batch,
            token_values=scores.token_values,
            reward_scale=c.reward_scale,
            bootstrap=c.bootstrap == "proper",
            **{name: getattr(c, name) for name in SETTINGS},
        )
        if critic.memory is not None:
            refitted = self._refit(critic, state.batches, gather, batch)
            critic = keep_where(all_finite(refitted), refitted, critic)
        inputs, terms = gather(critic.heads)
        credit = self.credit_of(inputs)
        prepared = prepare_batch(
            credit,
            inputs,
            batch,
            scores,
            hierarchical=self.estimator.hierarchical,
            whitening=c.whitening,
            weights=(c.weight_low, c.weight_high, c.weight_term),
            train=c.train,
        )
        metrics = measure_credit(credit, terms, batch, scores, inputs, self.estimator.heads)
        return state._replace(critic=critic), prepared, inputs, metrics

    def _refit(
        self, critic: CriticState, batches: Array, gather: partial, batch: PackedBatch
    ) -> CriticState:
        slot = batches % self.critic.memory

        def refit(_: Any, carry: tuple[Any, Any]) -> tuple[Any, Any]:
            heads, memory = carry
            target, mask = list_targets(self.credit_of(gather(heads)[0]), batch)
            moments = least_squares.measure(gather.keywords["features"], target, mask)
            memory = least_squares.remember(memory, moments, slot)
            return least_squares.solve(memory, self.critic.ridge), memory

        fits = jnp.where(batches == 0, self.critic.first_fits, self.critic.fits)
        heads, memory = jax.lax.fori_loop(0, fits, refit, (critic.heads, critic.memory))
        return critic._replace(heads=heads, memory=memory)

    def _policy_loss(
        self, frozen: Params, trained: tuple[Params, Any], part: LearnerBatch, counts: Counts
    ) -> tuple[Array, Metrics]:
        """Loss of a micro-batch, already divided by the counts of its whole minibatch."""
        policy, heads = combine(trained[0], frozen), trained[1]
        hidden = run_sequences(policy, self.model, part.sequences)
        replies = part.sequences.reply_index, part.reply_at, part.reply
        logprobs, entropy = reply_logprobs(policy, self.model, hidden, *replies, self.temperature)
        settings = {name: getattr(self.ppo, name) for name in objectives.SETTINGS}
        loss, metrics = objectives.policy_objective(
            logprobs, entropy, part, counts, reply_length=self.reply_length, **settings
        )
        if self.critic.kind == "shared" and self.trains_critic:
            value = objectives.value_objective(
                heads, hidden, part, counts, value_clip=self.critic.value_clip
            )
            loss, metrics = loss + self.critic.coefficient * value.loss, metrics | value.metrics
        return loss, metrics

    @partial(jax.jit, static_argnames="self", donate_argnames="state")
    def update(
        self,
        state: TrainState,
        batch: LearnerBatch,
        order: Int[Array, "M s"],
        steps: Int[Array, ""],
    ) -> tuple[TrainState, Metrics]:
        """PPO steps over the first `steps` minibatches that `order` lists (sequences of each).

        Returns means of the metrics. A step whose gradient or parameters are not finite is skipped
        and counted.
        """
        heads = self.critic.kind == "shared" and self.trains_critic

        def step(state: TrainState, index: Array) -> tuple[TrainState, Metrics]:
            part = jax.tree.map(lambda x: x[index], batch)
            policy, frozen = split_trained(state.policy, self.model)
            trained = (policy, state.critic.heads if heads else None)
            grads, metrics = self.accumulate(partial(self._policy_loss, frozen), trained, part)
            norm = global_norm(grads)
            stepped = self._apply(state, grads, heads)
            finite = jnp.isfinite(norm) & all_finite(
                (
                    split_trained(stepped.policy, self.model)[0],
                    stepped.optimizer,
                    stepped.critic.heads,
                )
            )
            kept = keep_where(finite, stepped, state)
            skipped = jnp.where(finite, 0, state.skipped + 1)
            metrics |= {
                "grad_norm": norm,
                "skipped_steps": (1 - finite) * steps.astype(jnp.float32),
            }
            return kept._replace(skipped=skipped), metrics

        return run_steps(step, state, order, steps)

    def _apply(self, state: TrainState, grads: tuple[Any, Any], heads: bool) -> TrainState:
        policy, frozen = split_trained(state.policy, self.model)
        moves, optimizer = self.optimizer.update(grads[0], state.optimizer, policy)
        share = share_at(state.batches, iterations=self.iterations, end=self.ppo.learning_rate_end)
        moves = jax.tree.map(lambda move: share * move, moves)
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
            clip = self.critic.value_clip
            return objectives.value_objective(heads, hidden, part, counts, value_clip=clip)

        def step(carry: Any, index: Array) -> tuple[Any, Metrics]:
            trained, optimizer = carry
            part = jax.tree.map(lambda x: x[index], batch)
            grads, metrics = self.accumulate(loss, trained, part)
            moves, moved = self.critic_optimizer.update(grads, optimizer, trained)
            new = (optax.apply_updates(trained, moves), moved)
            finite = jnp.isfinite(global_norm(grads)) & all_finite(new)
            return keep_where(finite, new, carry), metrics

        critic = state.critic
        start = ((critic.heads, critic.trunk), critic.optimizer)
        ((heads, trunk), optimizer), metrics = run_steps(step, start, order, steps)
        critic = critic._replace(heads=heads, trunk=trunk, optimizer=optimizer)
        return state._replace(critic=critic), metrics

    def learn(
        self,
        state: TrainState,
        batch: PackedBatch,
        final: FinalPrompts | None,
        *,
        key: Key[Array, ""],
    ) -> LearnResult:
        """Score, assign credit, fit the critic, update the policy: one iteration's learning."""
        number, p, count = int(state.batches), self.ppo, int(batch.count)
        sizes = split_into_minibatches(count, p.minibatch_sequences, p.micro_sequences)
        room, total = p.minibatch_sequences, len(batch.sequences.tokens)
        order = partial(make_order, sizes=sizes, room=room, total=total)
        scores, passes = self.score_or_rescore(state, batch, final)
        state, prepared, inputs, metrics = self.assign(state, batch, scores)
        if self.credit.compare_every and number % self.credit.compare_every == 0:
            metrics |= self.compare(state, batch, inputs)
        fits = self.critic.warmup_epochs if number == 0 else p.epochs
        if not (self.trains_critic and (number == 0 or state.critic.trunk is not None)):
            fits = 0  # the critic is fitted by least squares, or beside the policy
        if fits:
            steps = order(jax.random.fold_in(key, 1), epochs=fits)
            state, value_metrics = self.fit_critic(state, prepared, *steps)
            metrics |= value_metrics
            if number == 0:  # the credit once more, now that the critic is warm
                scores, more = self.score_or_rescore(state, batch, final)
                state, prepared, inputs, _ = self.assign(state, batch, scores)
                passes += more
        state, policy_metrics = self.update(state, prepared, *order(key, epochs=p.epochs))
        work = Work(passes, self.score_sequences, p.epochs + fits, tuple(sizes))
        state = state._replace(batches=state.batches + 1)
        return LearnResult(state, metrics | policy_metrics, work, inputs)
