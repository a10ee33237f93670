"""What compiling costs: programs counted, and seconds summed, while a context is open."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import jax

_BACKEND = "/jax/core/compile/backend_compile_duration"
_STAGES = (_BACKEND, "/jax/core/compile/jaxpr_trace_duration", "/jax/core/compile/jaxpr_to_mlir_module_duration")


@contextlib.contextmanager
def compilations() -> Iterator[Callable[[], int]]:
    """Count XLA compilations (cache hits too) in this process while the context is open.

    Example:
        >>> import jax.numpy as jnp
        >>> with compilations() as count:
        ...     _ = jax.jit(lambda x: x * 3 + 1)(jnp.ones(7))
        ...     count() > 0
        True
    """
    found = 0

    def see(event: str, duration: float) -> None:
        nonlocal found
        found += event == _BACKEND

    with _listening(see):
        yield lambda: found


@contextlib.contextmanager
def compile_seconds() -> Iterator[Callable[[], float]]:
    """Sum the seconds of tracing, lowering and compiling in this process while the context is open."""
    total = 0.0

    def see(event: str, duration: float) -> None:
        nonlocal total
        total += duration if event in _STAGES else 0.0

    with _listening(see):
        yield lambda: total


@contextlib.contextmanager
def _listening(see: Callable[[str, float], None]) -> Iterator[None]:
    def listen(event: str, duration: float, **kwargs: Any) -> None:
        see(event, duration)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
