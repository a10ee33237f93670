"""Finetune: learn the new rows and nothing else, the lower end of every comparison."""

from clujax.continual.method import Method, Rules
from clujax.continual.methods.parts import adapting, check_training, descend_on


def finetune(
    *,
    steps: int = 300,
    batch_size: int = 128,
    learning_rate: float = 0.02,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
) -> Method:
    """Minimise CE(learn), from the network as it is; old rows are not rehearsed, and are forgotten by interference.

    A forget-only request does nothing; rows to forget are never used. Cost: one gradient of a batch per step.
    """
    settings = dict(locals())
    check_training(settings)

    def build(scene):
        return Rules(adapting(scene, descend_on(scene, learn=1.0), settings, parts=("learn",)))

    return Method("finetune", settings, build, replay="none")
