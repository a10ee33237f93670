"""Adapting a trained classifier: what the systems share that carry out requests on one.

A `Request` holds the network, the rows to forget and the rows to keep; a `Method` prepares a `Plan` (compiled steps,
and the work of each iteration as a pure function of its number), which `execute` runs with progress, checkpoints and records.
Losses, schedules, Fisher diagonals of rows and cached logits are here too.
"""
