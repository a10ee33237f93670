"""What each picture shows and how to read it, in a few sentences below it."""

from collections.abc import Mapping
from typing import Any

from clujax.reports import wording

REQUEST = {
    "gaps": "How far each method ends from a model retrained without the data. The grey band is as far as two "
    "retrained models are from each other: inside it, a gap cannot be told from chance. The axis is linear near zero "
    "and logarithmic beyond.",
    "heatmap": "How far each method ends from a model retrained without the data, metric by metric; the nearest method "
    "on top. White cells are no larger than the noise floor; each darker shade is twice as far.",
    "tradeoff": "What a method keeps (to the right: it works better) against what an attack says of the forgotten rows. "
    "The aim is the green ellipse, where retrained networks lie by chance: above it rows are remembered, below it they "
    "stand out as forgotten. Methods far away stand at the border with their values.",
    "cost": "Seconds of preparing and running each method, and of compiling it once. Unlearning is worth its trouble "
    "left of the dashed line.",
    "scores": "The score of the forgotten rows, for every method. A strip that lies in the green band looks retrained; "
    "to its left the network is still too sure of the rows, to its right more unsure than if it had never seen them.",
    "class_accuracy": "Accuracy by class. A request was carried out well where the unlearned model lies on the "
    "retrained one; elsewhere it forgot too little, or too much.",
    "membership": "The score that a membership attack reads. Rows that a model was trained on differ from rows it "
    "never saw; after unlearning, the forgotten rows should lie where they lie for the retrained model.",
    "beliefs": "Forgotten images and the probability that each model gives to every class: the true class in colour, "
    "above it the best guess (red when wrong). Forgetting a few rows does not mean failing on them: a retrained "
    "model, too, may know a picture that it never saw.",
    "trajectory": "The run step by step: the loss on forgotten and remaining rows, the size of the parts of the "
    "gradient, the angle between them, and how many rows carry the adaptive weights.",
    "mask": "The share of each layer's weights that the saliency mask lets move.",
}

STREAM = {
    "stream_groups": "Accuracy after every request, by group of rows. Neither high nor low is good: a method should "
    "lie on the black line, the oracle, which is retrained from scratch after every request on what is to be known then. "
    "Above it, rows just forgotten are still known, and rows forgotten earlier came back; below it, too much was lost.",
    "stream_distance": "How far the networks are from the oracle after every request; named are the two furthest methods "
    "and the nearest. A grey step is as high as two oracles are apart: inside it, a distance cannot be told from "
    "chance. The axes are linear there and logarithmic beyond.",
    "stream_classes": "Test accuracy class by class after every request. The right map should look like the left one: a "
    "class turns dark when it is learned and light again when it is forgotten.",
    "stream_time": "Seconds that every request took, and their mean. A method is worth its trouble left of the dashed "
    "line, which is retraining.",
    "gaps": "How far each method ends from the oracle, as a mean over the requests. The grey band is as far as two oracles "
    "are from each other: inside it, a gap cannot be told from chance. The axis is linear near zero and logarithmic "
    "beyond.",
    "heatmap": "How far each method ends from the oracle, metric by metric, as a mean over the requests; the nearest method "
    "on top. White cells are no larger than the noise floor; each darker shade is twice as far.",
    "tradeoff": "What a method keeps (to the right: it works better) against what an attack says of the forgotten rows, as "
    "means over the requests. The aim is the black diamond: above it rows are remembered, below it they stand out as "
    "forgotten. Methods far away stand at the border with their values.",
    "cost": "Mean seconds of a request. A method is worth its trouble left of the dashed line, which is retraining.",
}


def caption(request: Mapping[str, Any], name: str) -> str:
    """The words below the picture of a name."""
    return (REQUEST | STREAM if wording.is_stream(request) else STREAM | REQUEST)[name]
