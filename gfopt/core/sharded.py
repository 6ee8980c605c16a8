"""The evaluator that spreads a population over devices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec, reshard

from gfopt import checks
from gfopt.core.evaluate import Request, Vmapped, judged
from gfopt.protocol import as_method
from gfopt.pytree import pytree, static
from gfopt.types import Evaluation, Population, PyTree


@pytree
class Sharded:
    """Spreads the population over an axis of a mesh; only fitness travels along it.

    Args:
        inner: evaluator of the rows at one place of the axis.
        mesh: of one axis, or of several with automatic axis types; all local devices by
            default.
        axis: the axis over which rows are spread, where there are several. The others
            are those of the solution's own sharding.

    Raises:
        ValueError: where no axis of the mesh is named and it has several, or explicit
            ones.
    """

    inner: Vmapped = static(default=Vmapped())
    mesh: Mesh | None = static(default=None)
    axis: str | None = static(default=None)

    def __post_init__(self) -> None:
        checks.instance(
            "inner", self.inner, Vmapped, "vmapped() or chunked(batch_size)"
        )
        if self.mesh is None:
            return
        checks.instance("mesh", self.mesh, Mesh, "a jax.sharding.Mesh or None")
        names, types = self.mesh.axis_names, self.mesh.axis_types
        if len(names) > 1 or self.axis is not None:
            checks.one_of("axis", self.axis, names)
        if len(names) > 1 and set(types) != {AxisType.Auto}:
            raise ValueError(
                f"mesh must have Auto axes where it has several; got {types}"
            )

    def __call__(self, request: Request) -> Evaluation:
        """Evaluates the active rows of a population, a share on every device."""
        population = request.population
        mesh = self.mesh
        if mesh is None:
            devices = np.array(jax.local_devices())
            mesh = Mesh(devices, ("population",), axis_types=(AxisType.Auto,))
        axis = mesh.axis_names[0] if self.axis is None else self.axis
        count = population.active.shape[0]
        multiple = mesh.shape[axis] * as_method(request.optimizer).group_size
        pad = -count % multiple  # padding repeats the last row, inactive
        padded = jax.tree.map(
            lambda leaf: jnp.concatenate([leaf, jnp.repeat(leaf[-1:], pad, axis=0)]),
            population.members,
        )
        active = jnp.pad(population.active, (0, pad))
        rows = jnp.minimum(jnp.arange(count + pad), count - 1)

        def share(
            whole: tuple[PyTree, ...], population: Population, rows: jax.Array
        ) -> tuple[jax.Array, PyTree]:
            *head, inputs = whole
            request = Request._make([*head, population, inputs])
            # every device gets all scalars, so that each makes the same `tell`
            return jax.tree.map(
                lambda leaf: lax.all_gather(leaf, axis, tiled=True),
                self.inner.rows(request, rows),
            )

        split, whole = PartitionSpec(axis), PartitionSpec()
        mapped = jax.shard_map(
            share,
            mesh=mesh,
            in_specs=(whole, split, split),
            out_specs=whole,
            axis_names={axis},
            check_vma=False,
        )
        # on every device whole, before it is split: else the compiler would also split
        # what is made of the population elsewhere, such as the sums of `tell`, which
        # then differ in their last bits
        each = Population(padded, active), rows
        if mesh.axis_types == (AxisType.Explicit,):
            each = reshard(each, NamedSharding(mesh, whole))
            each = reshard(each, NamedSharding(mesh, split))
        else:
            each = lax.with_sharding_constraint(each, NamedSharding(mesh, whole))
        *head, _, inputs = request
        values = mapped((*head, inputs), *each)
        fitness, aux = jax.tree.map(lambda leaf: leaf[:count], values)
        return judged(fitness, population.active, aux)


def sharded(
    mesh: Mesh | None = None, inner: Vmapped | None = None, axis: str | None = None
) -> Sharded:
    """Returns the evaluator that spreads the population over devices.

    Args:
        mesh: devices along one axis, also those of several processes; all local devices
            by default.
        inner: evaluator on each device; ``vmapped()`` by default.
        axis: of a mesh of several (automatic) axes, the one for the population; over
            the others the solution is sharded as ``x0`` is.

    Example:
        >>> import gfopt
        >>> sharded(inner=gfopt.chunked(8))
        Sharded(inner=Chunked(batch_size=8), mesh=None, axis=None)
    """
    return Sharded(Vmapped() if inner is None else inner, mesh, axis)
