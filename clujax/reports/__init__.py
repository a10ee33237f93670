"""Tables and pictures from the files that a run leaves; nothing here computes a result.

`read(dir)` loads them, `build(run)` draws `figures/*.png` and `report.html`, `tables(runs)` are for a terminal and
`markdown(runs)` for a document, `leaderboard(runs, path)` ranks the methods of several runs on one page. A system's
`experiment.py` writes two kinds of file, and this is their contract.

**result.json**, one per run (JSON; a key marked ? may be absent or null, a key not named here is passed over)::

    {"title": "Forget on request: MNIST", "command": "clujax run ...", "config_digest": "0f3a...",
     "created": "2026-11-24T11:00:00+00:00", "versions": {"jax": "0.10.2"}, "device": "cpu x 2",
     "source": {"kind": ..., "path": ..., "version": ..., "sha256": ..., "n": ...}, "seeds": [0, 1, 2],
     "wall_seconds": 120.0, "summary"?: "a sentence to begin with",
     "requests": [
       {"name": "random", "label"?: "10 % random rows", "scenario": "random", "split_hash": "a1b2...",
        "num_forget": 400, "num_remain": 3600, "num_test": 1000,
        "reference": "retrain",             key of the method that gaps are measured to; "oracle" for a stream
        "focus"?: "sfron",                  key of the method the report is about (sfron, else the first)
        "metrics": [{"key": "FA", "label": "Forget accuracy", "unit": "%",
                     "direction": "closer to retrain" | "lower" | "higher",
                     "ideal": "retrain" | number,   a number: the distance is |value - ideal|, no gap needed
                     "explain": "Share of forgotten rows still classified correctly.",
                     "group"?: "utility" | "privacy" | "output" | "summary" | "cost",   a cost is no distance
                     "headline"?: true}],           shown first; where no metric has it, all are
        "methods": [{"key": "sfron", "label": "SFR-on", "values": {"FA": 89.1, ...}, "std"?: {"FA": 0.4, ...},
                     "gap"?: {"FA": 1.9, ...},           distance to the reference, mean over seeds
                     "interval"?: {"FA": [0.8, 3.0], "AvgD": [0.9, 1.6], ...},   95 % interval of the signed gap (of
                                                         the value, for a metric that is a distance itself)
                     "larger_than_noise"?: ["FA", ...],  metrics whose gap exceeds what retraining varies by; [] for none
                     "collapsed"?: true,                 it destroyed what it should keep; the sentence is a warning that
                                                         begins "Collapsed:", which without this key tells it too
                     "compile_seconds"?: 2.1, "run_seconds"?: 7.9, "settings"?: {...}, "warnings"?: ["..."],
                     "density"?: 0.42}],                 share of weights the mask lets move
        "noise_floor"?: {"FA": 0.6, ...},              mean distance between two retrained models, in the metric's unit
        "noise_models"?: 20,                           retrained networks behind the floor
        "noise_ellipse"?: {"x": "TA", "y": "MIA",      the plane of the trade-off figure (these two without this key)
                           "centre": [x, y], "axes": [[dx, dy], [dx, dy]],     half axes of two standard deviations
                           "points": [[x, y], ...]},                           the retrained networks
        "stream"?: [{"word": "L3+U10%", "learn": 1000, "forget": 120}, ...]}]}  rows of each request, in order

With "stream", a record tells of a stream of requests that learn and forget, not of one request to forget: its values are
means over the requests after the first, its reference is retrained after every request, `num_learn` and `num_forget` count
the rows of all requests, and "Relapse" (accuracy on rows forgotten earlier), "KL_forget", "KL_kept" and "seconds" are told of
in words. A word joins by "+" what one request asks: L3 learns task 3, U2 forgets task 2, U{0,2} classes, U10% a share.

The metric "AvgD" (mean distance over metrics) orders methods in figures and on the leaderboard; "MIA", the share of
forgotten rows that an attack takes for training data, is told of in words.

**evidence_<i>.npz**, one per request, counted from 0. Each group may be left out; its figure is then left out too.
M models, C classes, accuracies in %. A `*_models` array holds method keys of result.json::

    classes                     [C] str     names
    seed                        []  int     the seed that this evidence comes from
    class_accuracy_models       [M] str     e.g. ["original", "sfron", "retrain"]
    class_accuracy              [M, C]      on test rows
    class_accuracy_forget       [M, C]      on forgotten rows; nan for a class without any
    membership_models           [M] str
    membership_score            []  str     what is scored, e.g. "entropy"
    membership_unit             []  str     e.g. "nats"
    membership_forget           [M, n_f]    score of each row; likewise
    membership_remain           [M, n_r]
    membership_test             [M, n_t]
    membership_called_member    [M]         optional: % of forgotten rows that the attack calls members
    scores_models               [M] str     every method of the request, with
    scores_forget               [M, n_f]    the score (by `membership_score`, else prediction entropy) of forgotten rows
    images                      [k, H, W, 1 or 3]   uint8, or float in [0, 1] when coloured
    labels                      [k] int
    image_index                 [k] int     optional row ids
    belief_models               [M] str
    belief                      [M, k, C]   probabilities
    trajectory_step             [S] int
    trajectory_forget_loss      [S]         likewise remain_loss
    trajectory_norm_<part>      [S]         parts: saliency, forget, remain (any name does)
    trajectory_cosine_<a>_<b>   [S]
    trajectory_effective_sample_size  [S]
    mask_leaf                   [L] str     parameter paths
    mask_density                [L]         share of the leaf that the mask lets move, in [0, 1]
    stream_models               [M] str     every method of a stream, the reference among them
    stream_requests             [Q] str     words of its requests
    stream_<metric>             [M, Q]      mean over seeds after each request; nan where it has no such number
    stream_<metric>_std         [M, Q]      standard deviation over seeds; 0 for one seed
    stream_class/<c>            [M, Q]      test accuracy of class number c in %; likewise _std
"""

from clujax.reports.board_page import leaderboard
from clujax.reports.build import build
from clujax.reports.figures import (
    belief_grid,
    class_accuracy,
    cost_chart,
    gap_chart,
    gap_heatmap,
    mask_density,
    membership_evidence,
    score_distributions,
    stream_classes,
    stream_distance,
    stream_groups,
    stream_time,
    tradeoff,
    trajectory,
)
from clujax.reports.html import page
from clujax.reports.results import Run, check, read
from clujax.reports.tables import markdown, tables

__all__ = [
    "Run",
    "belief_grid",
    "build",
    "check",
    "class_accuracy",
    "cost_chart",
    "gap_chart",
    "gap_heatmap",
    "leaderboard",
    "markdown",
    "mask_density",
    "membership_evidence",
    "page",
    "read",
    "score_distributions",
    "stream_classes",
    "stream_distance",
    "stream_groups",
    "stream_time",
    "tables",
    "tradeoff",
    "trajectory",
]
