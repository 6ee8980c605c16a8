"""The evaluator that spreads a population over devices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, reshard

from gfopt import checks
from gfopt.core.evaluate import Vmapped, judged
from gfopt.core.objective import Inputs, Objective
from gfopt.protocol import as_method
from gfopt.pytree import pytree, static
from gfopt.types import Evaluation, Key, Optimizer, Population, PyTree, State


@pytree
class Sharded:
    """Spreads the population over the devices of a mesh; only fitness travels.

    Args:
        inner: evaluator of the rows on one device.
        mesh: a mesh with one axis; all local devices by default.

    Raises:
        ValueError: where the mesh has more than one axis.
    """

    inner: Vmapped = static(default=Vmapped())
    mesh: Mesh | None = static(default=None)

    def __post_init__(self) -> None:
        checks.instance("inner", self.inner, Vmapped, "vmapped() or chunked(size)")
        if self.mesh is not None:
            checks.instance("mesh", self.mesh, Mesh, "a jax.sharding.Mesh or None")
            if len(self.mesh.axis_names) != 1:
                raise ValueError(
                    "mesh must have exactly one axis; "
                    f"got axes {tuple(self.mesh.axis_names)}"
                )

    def __call__(
        self,
        key: Key,
        objective: Objective,
        optimizer: Optimizer,
        state: State,
        population: Population,
        inputs: Inputs,
    ) -> Evaluation:
        """Evaluates the active rows of a population, a share on every device."""
        mesh = self.mesh
        if mesh is None:
            devices = np.array(jax.local_devices())
            mesh = Mesh(devices, ("population",), axis_types=(AxisType.Auto,))
        (axis,) = mesh.axis_names
        count = population.active.shape[0]
        multiple = mesh.size * as_method(optimizer).group_size
        pad = -count % multiple  # padding repeats the last row, inactive
        padded = jax.tree.map(
            lambda leaf: jnp.concatenate([leaf, jnp.repeat(leaf[-1:], pad, axis=0)]),
            population.members,
        )
        active = jnp.pad(population.active, (0, pad))
        rows = jnp.minimum(jnp.arange(count + pad), count - 1)

        def share(
            data: PyTree, members: PyTree, active: jax.Array, rows: jax.Array
        ) -> tuple[jax.Array, PyTree]:
            key, objective, optimizer, state, inputs = data
            population = Population(members, active)
            found = self.inner.rows(
                key, objective, optimizer, state, population, rows, inputs
            )
            # every device gets all scalars, so that `tell` is the same on each
            return jax.tree.map(
                lambda leaf: lax.all_gather(leaf, axis, tiled=True), found
            )

        split, whole = PartitionSpec(axis), PartitionSpec()
        mapped = jax.shard_map(
            share,
            mesh=mesh,
            in_specs=(whole, split, split, split),
            out_specs=whole,
            check_vma=False,
        )
        data = (key, objective, optimizer, state, inputs)
        # on every device whole, before it is split: else the compiler would split what
        # is made of the population outside of here, the sums of `tell` too, which then
        # differ in their last bits
        each = padded, active, rows
        if mesh.axis_types == (AxisType.Explicit,):
            each = reshard(each, NamedSharding(mesh, whole))
            each = reshard(each, NamedSharding(mesh, split))
        else:
            each = lax.with_sharding_constraint(each, NamedSharding(mesh, whole))
        found = mapped(data, *each)
        fitness, aux = jax.tree.map(lambda leaf: leaf[:count], found)
        return judged(fitness, population.active, aux)


def sharded(mesh: Mesh | None = None, inner: Vmapped | None = None) -> Sharded:
    """Returns the evaluator that spreads the population over devices.

    Args:
        mesh: a mesh with one axis; all local devices by default.
        inner: evaluator on each device; ``vmapped()`` by default.

    Example:
        >>> import gfopt
        >>> sharded(inner=gfopt.chunked(8))
        Sharded(inner=Chunked(size=8), mesh=None)
    """
    return Sharded(Vmapped() if inner is None else inner, mesh)
