"""Learn, then unlearn: a continual method on the new rows, and any unlearning method after it."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PRNGKeyArray

from clujax.adaptation.method import Method as Unlearning
from clujax.adaptation.plans import check_choice
from clujax.adaptation.request import check_request
from clujax.continual.method import Learner, Method, Phase, Scene
from clujax.continual.methods.parts import has_old_rows
from clujax.continual.methods.replay import replay as experience_replay
from clujax.continual.request import Change


def after(unlearning: Unlearning, *, learn: Method | None = None, replay: str = "memory") -> Method:
    """Carry out the learning side by `learn`, then the forgetting side by `unlearning`, as two training runs.

    A learn-only request is `learn`'s alone, a forget-only one `unlearning`'s alone. The unlearning method gets the rows to
    forget, and as rows to keep: all that remain and all that were just learned ("remain"), or the rows of memory and as
    many of those just learned, drawn at random ("memory": memory itself takes them only after the request).

    Args:
      unlearning: for example `clujax.unlearning.salun()`; what it needs beside rows is checked before anything is trained.
        Its steps are its own, and compiled anew for each request.
      learn: a continual method; by default experience replay with the same `replay`.
      replay: rows to keep by, "memory" or "remain".

    Cost: that of both.
    """
    check_choice("replay", replay, ("memory", "remain"))
    learn = learn or experience_replay(replay=replay)

    def build(scene):
        first = learn.build(scene)

        def request_for(learner, change, key):
            return scene.bare._replace(
                params=learner.params,
                stats=learner.stats,
                forget=scene.rows(change.forget),
                remain=rows_to_keep(scene, learner, change, replay, key),
            )

        def phases(learner, change):
            nothing = change.forget[:0]
            learning = list(first.phases(learner, change._replace(forget=nothing))) if len(change.learn) else []
            if not len(change.forget):
                return learning
            check_request(request_for(learner, change, jax.random.key(0)), unlearning.needs, unlearning.name)

            def prepare(learner, key):
                rows_key, prepare_key = jax.random.split(key)
                return unlearning.prepare(request_for(learner, change, rows_key), prepare_key)

            return [*learning, Phase("unlearn", prepare)]

        return first._replace(phases=phases)

    settings = {
        "unlearning": {"method": unlearning.name} | dict(unlearning.settings),
        "learn": {"method": learn.name} | dict(learn.settings),
        "replay": replay,
    }
    kept_by = "memory" if "memory" in (replay, learn.replay) else replay
    return Method(f"{learn.name}+{unlearning.name}", settings, build, kept_by)


def rows_to_keep(scene: Scene, learner: Learner, change: Change, replay: str, key: PRNGKeyArray) -> dict | None:
    """Rows for an unlearning method to keep, as columns; None when there are none.

    Raises:
      RequestError: as `has_old_rows`.
    """
    old = has_old_rows(learner, change, replay)
    if replay == "remain":
        rows = np.union1d(change.remain, change.learn)
        return scene.rows(rows) if len(rows) else None
    if not old:
        return scene.rows(change.learn) if len(change.learn) else None
    held, kept = learner.memory, np.flatnonzero(np.asarray(learner.memory.valid))
    memory = {"x": held.x[kept], "y": held.y[kept], "index": np.asarray(held.rows)[kept]}
    if not len(change.learn):
        return memory
    new = scene.rows(change.learn[np.asarray(jax.random.permutation(key, len(change.learn)))[: len(kept)]])
    return {name: jnp.concatenate([jnp.asarray(memory[name]), jnp.asarray(new[name])]) for name in memory}
