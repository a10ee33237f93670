"""Continual learning and unlearning: a stream of requests, carried out one after the other."""
