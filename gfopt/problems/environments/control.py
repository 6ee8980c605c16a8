"""Classic control tasks, in JAX: the environments of a ``Rollout``."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from gfopt.pytree import pytree
from gfopt.types import Key


@pytree
class CartPole:
    """A pole on a cart, kept upright by pushes to the left (0) and to the right (1).

    The state and the observation are position and speed of the cart, angle and angular
    speed of the pole. Every step gives 1; the episode ends beyond 2.4 metres or 12
    degrees. With ``max_steps=500`` a perfect return is 500. All numbers may be traced.

    Args:
        gravity: in metres per square second.
        cart_mass: in kilogrammes.
        pole_mass: in kilogrammes.
        half_length: of the pole, in metres.
        force: of a push, in newtons.
        seconds: of one (Euler) step.

    Source: Barto, Sutton, Anderson (1983), "Neuronlike adaptive elements that can solve
    difficult learning control problems", the appendix's equations without friction.

    Example:
        >>> state, observation = CartPole().reset(jax.random.key(0))
        >>> _, _, reward, done = CartPole().step(jax.random.key(1), state, 1)
        >>> float(reward), bool(done)
        (1.0, False)
    """

    gravity: float | jax.Array = 9.8
    cart_mass: float | jax.Array = 1.0
    pole_mass: float | jax.Array = 0.1
    half_length: float | jax.Array = 0.5
    force: float | jax.Array = 10.0
    seconds: float | jax.Array = 0.02

    def reset(self, key: Key) -> tuple[jax.Array, jax.Array]:
        """Starts near the middle: every number uniform within 0.05 of 0."""
        state = jax.random.uniform(key, (4,), jnp.float32, -0.05, 0.05)
        return state, state

    def step(
        self, key: Key, state: jax.Array, action: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Pushes for one step."""
        del key
        x, speed, angle, turning = state
        sine, cosine = jnp.sin(angle), jnp.cos(angle)
        push = jnp.where(action == 1, self.force, -self.force)
        mass = self.cart_mass + self.pole_mass
        # angle'' = (g sin - cos (F + m l angle'^2 sin) / M) / (l (4/3 - m cos^2 / M))
        pull = (push + self.pole_mass * self.half_length * turning**2 * sine) / mass
        lever = self.half_length * (4 / 3 - self.pole_mass * cosine**2 / mass)
        turn_rate = (self.gravity * sine - cosine * pull) / lever
        # x'' = (F + m l (angle'^2 sin - angle'' cos)) / M
        rate = pull - self.pole_mass * self.half_length * turn_rate * cosine / mass
        change = jnp.stack([speed, rate, turning, turn_rate])
        state = state + self.seconds * change.astype(state.dtype)
        done = (jnp.abs(state[0]) > 2.4) | (jnp.abs(state[2]) > jnp.deg2rad(12.0))
        return state, state, jnp.float32(1), done


@pytree
class Pendulum:
    """A pendulum to swing up and hold, with a motor too weak to lift it at once.

    The action is one number from -1 to 1, the share of ``torque``. The observation is
    cosine and sine of the angle from upright, and the angular speed. A step costs
    ``angle^2 + 0.1 speed^2 + 0.001 torque^2``; episodes do not end by themselves (200
    steps are usual). All numbers may be traced.

    Args:
        gravity: in metres per square second.
        mass: of the rod, in kilogrammes.
        length: of the rod, in metres.
        torque: at most, in newton metres.
        seconds: of one step.

    Source: the equation of motion of a uniform rod on a pivot, angle'' = 3 g sin(angle)
    / (2 l) + 3 torque / (m l^2); numbers and cost as in Gymnasium's Pendulum-v1.

    Example:
        >>> state, observation = Pendulum().reset(jax.random.key(0))
        >>> observation.shape
        (3,)
    """

    gravity: float | jax.Array = 10.0
    mass: float | jax.Array = 1.0
    length: float | jax.Array = 1.0
    torque: float | jax.Array = 2.0
    seconds: float | jax.Array = 0.05

    def reset(self, key: Key) -> tuple[jax.Array, jax.Array]:
        """Starts at any angle, with an angular speed from -1 to 1."""
        most = jnp.array([jnp.pi, 1.0], jnp.float32)
        state = jax.random.uniform(key, (2,), jnp.float32, -most, most)
        return state, self._observed(state)

    def step(
        self, key: Key, state: jax.Array, action: jax.Array
    ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
        """Turns the motor for one step."""
        del key
        angle, speed = state
        torque = self.torque * jnp.clip(jnp.reshape(action, ()), -1, 1)
        wrapped = (angle + jnp.pi) % (2 * jnp.pi) - jnp.pi
        cost = wrapped**2 + 0.1 * speed**2 + 0.001 * torque**2
        fall = 3 * self.gravity / (2 * self.length) * jnp.sin(angle)
        drive = 3 * torque / (self.mass * self.length**2)
        speed = jnp.clip(speed + self.seconds * (fall + drive), -8, 8)
        state = jnp.stack([angle + self.seconds * speed, speed]).astype(state.dtype)
        return state, self._observed(state), -cost, jnp.zeros((), bool)

    def _observed(self, state: jax.Array) -> jax.Array:
        return jnp.stack([jnp.cos(state[0]), jnp.sin(state[0]), state[1]])
