"""Experience replay: learn the new rows beside old ones."""

from clujax.continual.method import Method, Rules
from clujax.continual.methods.parts import adapting, check_training, descend_on


def replay(
    *,
    replay_weight: float = 1.0,
    replay: str = "memory",
    steps: int = 300,
    batch_size: int = 128,
    learning_rate: float = 0.02,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Method:
    """Minimise CE(learn) + w CE(replay), each the mean of `batch_size` rows, in one forward pass.

    A forget-only request trains on old rows alone; rows to forget are taken out of memory and never used: what happens to
    them is what happens when nobody rehearses them.

    Args:
      replay_weight: w.
      replay: where old rows come from, "memory" or "remain" (all remaining rows).

    Source: Chaudhry et al. 2019, "On Tiny Episodic Memories in Continual Learning" (ER). Cost: a gradient of two batches
    per step.
    """
    settings = dict(locals())
    check_training(settings, replay_weight=0)

    def build(scene):
        loss = descend_on(scene, learn=1.0, replay=replay_weight)
        return Rules(adapting(scene, loss, settings, parts=("learn", "replay")))

    return Method("replay", settings, build, replay=replay)
