"""A black box inside a model that is trained by gradients.

    forward     y = f(x)
    backward    cotangent c -> an estimate of the gradient of <c, f(x)> by x

Source: Zhang et al. (ICLR 2022), arXiv 2203.14195 (the bridge between white-box and
black-box parts).
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from gfopt import checks
from gfopt.deprecations import renamed_arguments
from gfopt.gradients.gradients import gradient_estimator
from gfopt.types import Key, PyTree, Solution


@renamed_arguments(num_queries="num_directions")
def black_box(
    fun: Callable[..., PyTree],
    kind: str = "two_sided",
    *,
    num_directions: int = 1,
    eps: float = 1e-3,
    directions: str = "gaussian",
    batch_size: int | None = None,
) -> Callable[..., PyTree]:
    """Makes a black box part of a model that is trained by gradients.

    Forward it is ``fun``. Backward it multiplies with an estimate of its Jacobian: the
    gradient of ``<cotangent, fun(x)>`` by ``gradient_estimator``, from values alone.
    Gradients so flow through white-box parts into a black box.

    Args:
        fun: ``(x, *args) -> array or tree of arrays``; no gradient goes to ``args``.
        kind: as in ``gradient_estimator``, but for ``"one_point"``.
        num_directions: directions that are averaged.
        eps: how far to go; 1e-3 is too little for bfloat16 inputs.
        directions: ``"gaussian"``, ``"rademacher"`` or ``"sphere"``.
        batch_size: directions that are evaluated together.

    Returns:
        ``(key, x, *args) -> fun(x, *args)``. For a batch of ``x``, vmap it over keys.

    Raises:
        TypeError: for an argument of the wrong type.
        ValueError: for one out of range, or ``"one_point"``, which needs a value from
            before.

    Example:
        >>> host = lambda x: jax.pure_callback(  # a simulator, a remote model
        ...     lambda x: (x**2).sum(-1).astype("float32"),
        ...     jax.ShapeDtypeStruct((), "float32"), x, vmap_method="expand_dims")
        >>> boxed = black_box(host, "coordinates")
        >>> encode = lambda w: jnp.tanh(w * jnp.arange(3.0))  # the white-box part
        >>> loss = lambda w: boxed(jax.random.key(0), encode(w))
        >>> exact = jax.grad(lambda w: jnp.sum(encode(w) ** 2))(0.5)
        >>> bool(jnp.abs(jax.grad(loss)(0.5) - exact) < 1e-3)
        True
    """
    if kind == "one_point":
        raise ValueError("kind must not be 'one_point' here: there is no value before")

    def projected(
        x: Solution, cotangent: PyTree, args: tuple[PyTree, ...]
    ) -> jax.Array:
        pairs = zip(
            jax.tree.leaves(cotangent), jax.tree.leaves(fun(x, *args)), strict=True
        )
        # an output of integers has no cotangent
        parts = (jnp.sum(c * y) for c, y in pairs if c.dtype != jax.dtypes.float0)
        return sum(parts, jnp.float32(0))

    estimate = gradient_estimator(
        projected,
        kind,
        num_directions=num_directions,
        eps=eps,
        directions=directions,
        batch_size=batch_size,
    )
    checks.is_callable("fun", fun)

    @jax.custom_vjp
    def boxed(key: Key, x: Solution, *args: PyTree) -> PyTree:
        return fun(x, *args)

    def forward(key: Key, x: Solution, *args: PyTree) -> tuple[PyTree, PyTree]:
        return fun(x, *args), (key, x, args)

    def backward(kept: PyTree, cotangent: PyTree) -> tuple[PyTree, ...]:
        key, x, args = kept
        gradient = estimate(key, x, cotangent, args).gradient
        return None, gradient, *[None] * len(args)

    boxed.defvjp(forward, backward)
    return boxed
