"""The oracle: nothing of what is forgotten, one program for any length, the published recipe."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from clujax.adaptation.method import execute
from clujax.adaptation.optimizers import sgd
from clujax.continual import methods
from clujax.continual.methods.oracle import scale_by_given_rate


def test_it_is_the_same_to_the_bit_whatever_the_forgotten_rows_were(scene, of, run, ask, same):
    requests = [ask(of(0, 1)), ask(of(2), of(1)), ask((), of(0)[:30])]
    method = methods.oracle(epochs=1, batch_size=16)
    _, learners = run(scene, method, requests)
    gone = np.concatenate([of(1), of(0)[:30]])
    other = scene._replace(columns=scene.columns | {"x": scene.columns["x"].at[gone].add(100.0)})
    _, others = run(other, method, requests)
    same(learners[-1].params, others[-1].params, atol=0)


def test_it_begins_anew_and_forgets_the_network_before(scene, of, learned, change_of, plans, same):
    rules = methods.oracle(epochs=1, batch_size=16).build(scene)
    learner, change = learned(scene, rules), change_of(of(2), of(0))
    (plan,) = plans(rules, learner, change)
    (again,) = plans(rules, learner._replace(params=jax.tree.map(jnp.ones_like, learner.params)), change)
    same(plan.params, again.params, atol=0)
    (other,) = plans(rules, learner, change, seed=4)
    assert float(jnp.abs(jax.tree.leaves(plan.params)[1] - jax.tree.leaves(other.params)[1]).max()) > 0.01


def test_its_passes_see_every_row_that_is_to_be_known(scene, of, learned, change_of, plans, numbers_in):
    rules = methods.oracle(epochs=1, batch_size=16).build(scene)
    change = change_of(of(2), of(0)[:40])
    (plan,) = plans(rules, learned(scene, rules), change)
    assert plan.num_steps == 9  # 140 rows
    assert numbers_in([plan.work(s) for s in range(9)]) == set(change.learn) | set(change.remain)


def test_with_nothing_left_the_answer_is_a_fresh_network(scene, of, learned, change_of, plans, same):
    rules = methods.oracle(epochs=1, batch_size=16).build(scene)
    (plan,) = plans(rules, learned(scene, rules), change_of((), of(0, 1)))
    assert plan.num_steps == 0
    same(execute(plan, key=jax.random.key(0)).params, plan.params, atol=0)


def test_a_rate_that_comes_with_the_batch_makes_the_same_optimizer(scene, fresh, same):
    params, total = fresh[0], 7
    given = optax.chain(optax.add_decayed_weights(5e-4), optax.trace(0.9), scale_by_given_rate())
    states, networks = [tx.init(params) for tx in (given, sgd(0.05, total))], [params, params]
    for s in range(total):
        gradient = jax.tree.map(lambda leaf: jnp.cos(leaf * (s + 1)), params)
        rate = 0.05 * (1 + np.cos(np.pi * s / total)) / 2
        for i, (tx, extra) in enumerate(((given, {"rate": rate}), (sgd(0.05, total), {}))):
            updates, states[i] = tx.update(gradient, states[i], networks[i], **extra)
            networks[i] = optax.apply_updates(networks[i], updates)
    same(networks[0], networks[1])
