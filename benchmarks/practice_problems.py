"""Ten problems from practice for ``practice.py``, of milliseconds each.

Calibration, machine learning, design and control; five are continuous, five have
integers or choices, three fail here or there. A problem is a function of named numbers
with a domain for each, and a choice is handed over as the number of its place. Where
designs have constraints, what they exceed their limits by, relative to the limits,
makes them dearer: the penalty of the engineering literature, which every optimizer can
take.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gfopt.spaces import Domain, categorical, integer, real


@dataclass(frozen=True)
class Problem:
    """A function of named numbers.

    Attributes:
        value: what is minimised, called with the numbers by name.
        domains: what each number may be.
        package: what it needs beside NumPy and SciPy, or empty.
    """

    value: Callable[..., float]
    domains: dict[str, Domain]
    package: str = ""

    @property
    def is_continuous(self) -> bool:
        """Whether no number is an integer or a choice."""
        return not any(d.integer or d.choices for d in self.domains.values())

    @property
    def has_choices(self) -> bool:
        """Whether some number is a choice."""
        return any(d.choices for d in self.domains.values())

    def __call__(self, numbers: Sequence[float]) -> float:
        """Returns the value; raises where the evaluation fails."""
        named = zip(self.domains, numbers, strict=True)
        return float(self.value(**{name: float(x) for name, x in named}))


PROBLEMS: dict[str, Problem] = {}


def _problem(package: str = "", **domains: Domain) -> Callable[..., Any]:
    def register(value: Callable[..., float]) -> Callable[..., float]:
        PROBLEMS[value.__name__] = Problem(value, domains, package)
        return value

    return register


def _excess(*ratios: float) -> float:
    """Returns by how much ratios of a load to its limit are above 1."""
    return sum(max(0.0, ratio - 1) for ratio in ratios)


# --- calibration ----------------------------------------------------------------------

_MINUTES = 60 * np.array(
    [0, 0.25, 0.57, 1.12, 2.02, 3.82, 5.1, 7.03, 9.05, 12.12, 24.37]
)
_MG_PER_L = np.array([0.74, 2.84, 6.57, 10.5, 9.66, 8.58, 8.36, 7.47, 6.89, 5.94, 3.28])
_DOSE = 4020.0  # ug / kg


@_problem(
    absorption=real(1e-3, 0.2),  # 1 / min
    elimination=real(1e-4, 0.1, log=True),  # 1 / min
    volume=real(50, 2000),  # mL / kg
    transit=real(0.5, 200),  # min
    compartments=integer(0, 10),
    baseline=real(0, 2),  # mg / L
)
def theophylline(
    absorption: float,
    elimination: float,
    volume: float,
    transit: float,
    compartments: float,
    baseline: float,
) -> float:
    """Rates of a drug's uptake from what was measured in the blood of one person.

    A dose passes through a chain of compartments into the gut and from there into the
    blood: Savic, Jonker, Kerbusch and Karlsson, "Implementation of a transit
    compartment model for describing drug absorption in pharmacokinetic studies"
    (J Pharmacokinet Pharmacodyn 2007), equations 1 to 3. The data are subject 1 of
    Boeckmann, Sheiner and Beal, "NONMEM users guide: part V" (1994), known as R's
    ``Theoph``. The value is the mean square of residuals in units of 10 % of the
    measurement and 0.2 mg / L. Five of a hundred evaluations raise, wherever they are,
    as on a cluster that loses jobs.
    """
    from scipy.signal import lfilter

    numbers = [absorption, elimination, volume, transit, compartments, baseline]
    if zlib.crc32(np.array(numbers).tobytes()) % 20 == 0:
        raise RuntimeError("the job was lost")
    step = 1.0  # min
    t = np.arange(step / 2, _MINUTES[-1] + step, step)
    rate = (compartments + 1) / transit
    n = compartments
    inflow = _DOSE * rate * np.exp(n * np.log(rate * t) - rate * t - math.lgamma(n + 1))
    # both equations are linear: a filter solves them
    gut = lfilter(
        [step * math.exp(-absorption * step / 2)],
        [1, -math.exp(-absorption * step)],
        inflow,
    )
    blood = lfilter([step], [1, -math.exp(-elimination * step)], absorption * gut)
    at = np.interp(_MINUTES, np.append(0, t + step / 2), np.append(0, blood))
    predicted = at / volume + baseline * np.exp(-elimination * _MINUTES)
    return np.mean(((predicted - _MG_PER_L) / (0.1 * _MG_PER_L + 0.2)) ** 2)


_IN_BED = [3, 8, 26, 76, 225, 298, 258, 233, 189, 128, 68, 29, 14, 4]
_CONVALESCENT = [0, 0, 0, 0, 9, 17, 105, 162, 176, 166, 150, 85, 47, 20]
_BOYS = 763.0


@_problem(
    contact=real(0.1, 20, log=True),  # 1 / day, as of the next four
    incubation=real(0.05, 20, log=True),
    to_bed=real(0.05, 20, log=True),
    out_of_bed=real(0.05, 20, log=True),
    recovery=real(0.05, 20, log=True),
    infected=real(0.01, 50, log=True),
    dispersion=real(1, 1000, log=True),
)
def influenza(
    contact: float,
    incubation: float,
    to_bed: float,
    out_of_bed: float,
    recovery: float,
    infected: float,
    dispersion: float,
) -> float:
    """An epidemic model's rates from an outbreak of influenza in a boarding school.

    The compartments are susceptible, exposed, infectious, in bed, convalescent and
    recovered. Source of the data: "Influenza in a boarding school" (British Medical
    Journal 1978, volume 1, page 587), as in R's package ``outbreaks``; of the model:
    Brauer and Castillo-Chavez, "Mathematical models in population biology and
    epidemiology" (2012), section 9.2, with two compartments more. The value is the
    negative logarithm of a negative binomial likelihood. The step of the solver is
    fixed: where rates are high it diverges, and the logarithm of a negative number
    raises.
    """
    steps_per_day = 6
    h = 1 / steps_per_day

    def slope(y: tuple[float, ...]) -> tuple[float, ...]:
        s, e, i, b, c = y
        new = contact * s * i / _BOYS
        ill, lies, up = incubation * e, to_bed * i, out_of_bed * b
        return -new, new - ill, ill - lies, lies - up, up - recovery * c

    y: tuple[float, ...] = (_BOYS - infected, 0.0, infected, 0.0, 0.0)
    total = 0.0
    for in_bed, convalescent in zip(_IN_BED, _CONVALESCENT, strict=True):
        for _ in range(steps_per_day):
            k1 = slope(y)
            k2 = slope(tuple(a + h / 2 * k for a, k in zip(y, k1, strict=True)))
            k3 = slope(tuple(a + h / 2 * k for a, k in zip(y, k2, strict=True)))
            k4 = slope(tuple(a + h * k for a, k in zip(y, k3, strict=True)))
            parts = zip(y, k1, k2, k3, k4, strict=True)
            y = tuple(a + h / 6 * (p + 2 * q + 2 * r + s) for a, p, q, r, s in parts)
        for count, mean in ((in_bed, y[3]), (convalescent, y[4])):
            mean += 1e-3
            total -= (
                math.lgamma(count + dispersion)
                - math.lgamma(dispersion)
                - math.lgamma(count + 1)
                - dispersion * math.log1p(mean / dispersion)
                + count * math.log(mean / (mean + dispersion))
            )
    return total


# --- machine learning -----------------------------------------------------------------


@functools.cache
def _cancer() -> tuple[np.ndarray, np.ndarray, list[Any]]:
    from sklearn.datasets import load_breast_cancer
    from sklearn.model_selection import StratifiedKFold
    from sklearn.preprocessing import StandardScaler

    x, y = (array[::2] for array in load_breast_cancer(return_X_y=True))
    x = StandardScaler().fit_transform(x)
    return x, y, list(StratifiedKFold(3).split(x, y))


@_problem(
    package="sklearn",
    penalty=real(1e-3, 1e3, log=True),
    gamma=real(1e-6, 10, log=True),
    offset=real(0, 1),
    degree=integer(2, 5),
    kernel=categorical(4),
)
def svc(
    penalty: float, gamma: float, offset: float, degree: float, kernel: float
) -> float:
    """Hyperparameters of a support vector machine: error in threefold validation.

    Data: Wolberg, Street and Mangasarian, "Breast cancer Wisconsin (diagnostic)" (UCI
    repository, 1995), bundled with scikit-learn; the ranges of penalty and gamma are
    about those of Hsu, Chang and Lin, "A practical guide to support vector
    classification" (2003). Every second row is left out, for milliseconds; the error is
    a multiple of 1 / 285: a landscape of steps.
    """
    from sklearn.svm import SVC

    x, y, parts = _cancer()
    model = SVC(
        C=penalty,
        gamma=gamma,
        coef0=offset,
        degree=int(degree),
        kernel=("linear", "rbf", "poly", "sigmoid")[int(kernel)],
        max_iter=20_000,
    )
    wrong = 0
    for train, test in parts:
        found = model.fit(x[train], y[train]).predict(x[test])
        wrong += int(np.sum(found != y[test]))
    return wrong / y.size


@functools.cache
def _diabetes() -> tuple[np.ndarray, ...]:
    from sklearn.datasets import load_diabetes

    x, y = load_diabetes(return_X_y=True)
    order = np.random.default_rng(0).permutation(y.size)
    train, test = order[:200], order[200:]
    return x[train], y[train], x[test], y[test]


@_problem(
    package="sklearn",
    rate=real(1e-2, 1, log=True),
    share=real(0.2, 1),
    features=real(0.1, 1),
    trees=integer(5, 30),
    depth=integer(1, 4),
    leaf=integer(1, 30),
    loss=categorical(3),
)
def boosting(
    rate: float,
    share: float,
    features: float,
    trees: float,
    depth: float,
    leaf: float,
    loss: float,
) -> float:
    """Hyperparameters of gradient boosting: root mean square error on held-out rows.

    Data: Efron, Hastie, Johnstone and Tibshirani, "Least angle regression" (Annals of
    Statistics 2004), the diabetes study, bundled with scikit-learn. Rows and columns
    of each tree are drawn with a fixed seed: the landscape is rough.
    """
    from sklearn.ensemble import GradientBoostingRegressor

    x, y, x_test, y_test = _diabetes()
    model = GradientBoostingRegressor(
        learning_rate=rate,
        subsample=share,
        max_features=features,
        n_estimators=int(trees),
        max_depth=int(depth),
        min_samples_leaf=int(leaf),
        loss=("squared_error", "absolute_error", "huber")[int(loss)],
        random_state=0,
    )
    found = model.fit(x, y).predict(x_test)
    return math.sqrt(np.mean((found - y_test) ** 2))


# --- design ---------------------------------------------------------------------------

_MATERIALS = (  # strength, E, G in psi; cost of weld and of bar, $ / in^3
    (30e3, 30e6, 12e6, 0.1047, 0.0481),  # steel
    (8e3, 14e6, 6e6, 0.0489, 0.0224),  # cast iron
    (5e3, 10e6, 4e6, 0.5235, 0.2405),  # aluminium
    (8e3, 16e6, 6e6, 0.5584, 0.2566),  # brass
)


@_problem(
    weld=integer(2, 32),  # in / 16
    length=real(0.1, 10),  # in
    height=real(0.1, 10),
    thickness=integer(2, 32),  # in / 16
    material=categorical(4),
)
def welded_beam(
    weld: float, length: float, height: float, thickness: float, material: float
) -> float:
    """The cheapest beam that is welded to a wall and carries 6000 pounds.

    Ragsdell and Phillips, "Optimal design of a class of welded structures using
    geometric programming" (J Eng Ind 1976), with the materials and the sixteenths of
    an inch of Deb and Goyal, "A combined genetic adaptive search (GeneAS) for
    engineering design" (1996).
    """
    force, arm = 6000.0, 14.0
    strength, young, shear, weld_cost, bar_cost = _MATERIALS[int(material)]
    h, b, long, t = weld / 16, thickness / 16, length, height
    direct = force / (math.sqrt(2) * h * long)
    radius = math.sqrt(long**2 / 4 + ((h + t) / 2) ** 2)
    polar = 2 * math.sqrt(2) * h * long * (long**2 / 12 + ((h + t) / 2) ** 2)
    bending = force * (arm + long / 2) * radius / polar
    stress = math.sqrt(direct**2 + bending**2 + direct * bending * long / radius)
    buckling = (
        4.013
        * young
        * t
        * b**3
        / (6 * arm**2)
        * (1 - t / (2 * arm) * math.sqrt(young / (4 * shear)))
    )
    excess = _excess(
        stress / (0.577 * strength),
        6 * force * arm / (b * t**2) / strength,
        h / b,
        force / max(buckling, 1e-3),
        4 * force * arm**3 / (young * t**3 * b) / 0.25,
    )
    cost = (1 + weld_cost) * h**2 * long + bar_cost * t * b * (arm + long)
    return cost * (1 + excess) ** 2


_NODES = 360.0 * np.array([[2, 1], [2, 0], [1, 1], [1, 0], [0, 1], [0, 0]])
_BARS = np.array(
    [[2, 4], [0, 2], [3, 5], [1, 3], [2, 3], [0, 1], [3, 4], [2, 5], [1, 2], [0, 3]]
)


@_problem(**{f"area{bar}": real(0.1, 35) for bar in range(10)})
def truss(**areas: float) -> float:
    """The lightest truss of ten bars, in pounds.

    Two loads of 100 kips, stresses of at most 25 ksi and deflections of at most 2
    inches: Haftka and Gurdal, "Elements of structural optimization" (1992), section
    6.3. The minimum is about 5060.9 (Sunar and Belegundu, 1991).
    """
    area = np.array(list(areas.values()))
    young, density = 1e4, 0.1  # ksi, lb / in^3
    ends = _NODES[_BARS]
    along = ends[:, 1] - ends[:, 0]
    length = np.linalg.norm(along, axis=1)
    # elongation of each bar from displacements of the four free nodes
    compatibility = np.zeros((10, 12))
    for bar, (i, j) in enumerate(_BARS):
        compatibility[bar, 2 * j : 2 * j + 2] = along[bar] / length[bar]
        compatibility[bar, 2 * i : 2 * i + 2] = -along[bar] / length[bar]
    free = compatibility[:, :8]
    load = np.zeros(8)
    load[[3, 7]] = -100.0
    moved = np.linalg.solve(free.T * (young * area / length) @ free, load)
    stress = young / length * (free @ moved)
    excess = _excess(*(np.abs(stress) / 25), *(np.abs(moved) / 2))
    return density * float(area @ length) * (1 + excess) ** 2


@_problem(
    **{f"gap{i}": real(0.25, 1.0) for i in range(5)},  # wavelengths
    **{f"current{i}": real(0.1, 1.0) for i in range(5)},
)
def antenna(**numbers: float) -> float:
    """The highest side lobe of a symmetric array of ten antennas, in decibels.

    Positions and currents are searched: Khodier and Christodoulou, "Linear array
    geometry synthesis with minimum sidelobe level and null control using particle
    swarm optimization" (IEEE Transactions on Antennas and Propagation 2005). What is
    within 14 degrees of broadside is the main lobe.
    """
    values = np.array(list(numbers.values()))
    gaps, currents = values[:5], values[5:]
    places = np.cumsum(gaps) - gaps[0] / 2
    angles = np.radians(np.arange(0, 76.1, 0.5))
    lobes = np.cos(2 * np.pi * np.cos(angles)[:, None] * places) @ currents
    return 20 * math.log10(np.max(np.abs(lobes)) / np.sum(currents))


_TUBES = {  # K and n of the number of tubes, by layout and passes
    "triangle": ((0.319, 2.142), (0.249, 2.207), (0.175, 2.285), (0.0743, 2.499)),
    "square": ((0.215, 2.207), (0.156, 2.291), (0.158, 2.263), (0.0402, 2.617)),
}


@_problem(
    shell=real(0.1, 1.5),  # m
    tube=real(0.015, 0.051),  # m
    baffles=real(0.05, 0.5),  # m
    passes=categorical(4),
    layout=categorical(2),
)
def heat_exchanger(
    shell: float, tube: float, baffles: float, passes: float, layout: float
) -> float:
    """Cost of a shell and tube heat exchanger over ten years, in thousand euros.

    Methanol is cooled by sea water: Caputo, Pelagagge and Salini, "Heat exchanger
    design based on economic optimisation" (Applied Thermal Engineering 2008), case 1,
    by Kern's method; tube counts as there, after Kakac and Liu. A shell in which no
    tube fits raises.
    """
    name = ("triangle", "square")[int(layout)]
    num_passes = (1, 2, 4, 6)[int(passes)]
    factor, power = _TUBES[name][int(passes)]
    tubes = math.floor(factor * (shell / tube) ** power)
    if tubes < num_passes:
        raise ValueError(f"{tubes} tubes for {num_passes} passes")
    inner, pitch = 0.8 * tube, 1.25 * tube
    # tube side: sea water; shell side: methanol
    flow_t, density_t, heat_t, viscosity_t, k_t, dirt_t = (
        68.9, 995.0, 4200.0, 8e-4, 0.59, 2e-4,
    )  # fmt: skip
    flow_s, density_s, heat_s, viscosity_s, k_s, dirt_s = (
        27.8, 750.0, 2840.0, 3.4e-4, 0.19, 3.3e-4,
    )  # fmt: skip
    speed_t = flow_t * num_passes / (tubes * math.pi / 4 * inner**2 * density_t)
    reynolds_t = density_t * speed_t * inner / viscosity_t
    prandtl_t = viscosity_t * heat_t / k_t
    friction_t = (1.82 * math.log10(max(reynolds_t, 2300)) - 1.64) ** -2
    if reynolds_t < 2300:
        nusselt, friction_t = 3.66, 64 / reynolds_t
    elif reynolds_t < 1e4:
        root = math.sqrt(friction_t / 8)
        nusselt = (
            root**2 * (reynolds_t - 1000) * prandtl_t
            / (1 + 12.7 * root * (prandtl_t ** (2 / 3) - 1))
        )  # fmt: skip
    else:
        nusselt = 0.027 * reynolds_t**0.8 * prandtl_t ** (1 / 3)
    film_t = nusselt * k_t / inner
    if name == "square":
        hydraulic = 4 * (pitch**2 - math.pi * tube**2 / 4) / (math.pi * tube)
    else:
        hydraulic = 4 * (0.43 * pitch**2 - math.pi * tube**2 / 8) / (math.pi * tube / 2)
    speed_s = flow_s / (density_s * shell * baffles * (1 - tube / pitch))
    reynolds_s = density_s * speed_s * hydraulic / viscosity_s
    prandtl_s = viscosity_s * heat_s / k_s
    film_s = 0.36 * k_s / hydraulic * reynolds_s**0.55 * prandtl_s ** (1 / 3)
    overall = 1 / (1 / film_s + dirt_s + tube / inner * (dirt_t + 1 / film_t))
    # 95 to 40 degrees against 25 to 40
    duty = flow_s * heat_s * 55
    mean = (55 - 15) / math.log(55 / 15)
    ratio, gain = 55 / 15, 15 / 70
    root = math.sqrt(ratio**2 + 1)
    correction = 1.0
    if num_passes > 1:
        above, below = (
            math.log((1 - gain) / (1 - gain * ratio)),
            math.log((2 - gain * (ratio + 1 - root)) / (2 - gain * (ratio + 1 + root))),
        )
        correction = root / (ratio - 1) * above / below
    area = duty / (overall * correction * mean)
    length = area / (math.pi * tube * tubes)
    drop_t = density_t * speed_t**2 / 2 * (length / inner * friction_t + 4) * num_passes
    friction_s = 1.44 * reynolds_s**-0.15
    drop_s = (
        friction_s * density_s * speed_s**2 / 2 * length / baffles * shell / hydraulic
    )
    pumping = (flow_t / density_t * drop_t + flow_s / density_s * drop_s) / 0.8  # W
    yearly = pumping / 1000 * 7000 * 0.12
    capital = 8000 + 259.2 * area**0.91
    total = capital + yearly * sum(1.1**-year for year in range(1, 11))
    excess = _excess(length / 6, length / (15 * shell), baffles / shell)
    return total / 1000 * (1 + excess) ** 2


_SOLVENTS = np.array(
    [  # Hansen's dispersion, polar, hydrogen (MPa^.5); evaporation; price / kg
        [15.5, 10.4, 7.0, 5.6, 1.1],  # acetone
        [16.0, 9.0, 5.1, 3.8, 1.5],  # butanone
        [15.8, 5.3, 7.2, 4.1, 1.2],  # ethyl acetate
        [15.8, 3.7, 6.3, 1.0, 1.4],  # butyl acetate
        [18.0, 1.4, 2.0, 2.0, 0.9],  # toluene
        [17.6, 1.0, 3.1, 0.7, 0.8],  # xylene
        [15.8, 8.8, 19.4, 1.5, 0.9],  # ethanol
        [20.0, 18.0, 4.1, 0.005, 1.9],  # propylene carbonate
    ]
)


@_problem(**{f"part{i}": real(0, 1) for i in range(8)})
def solvents(**parts: float) -> float:
    """The price of a blend of eight solvents that dissolves PMMA while it dries.

    The shares lie on a simplex: parts are divided by their sum, and what is below 2 %
    is not dosed. The blend must be within 0.6 of the polymer's radius when it is fresh
    and when half, and nine tenths, have evaporated, which must take no longer than
    butyl acetate takes for 90 %. Hansen, "Hansen solubility parameters: a user's
    handbook" (2007), chapters 1 and 8, and the tables of its appendix; prices are
    round figures.
    """
    shares = np.array(list(parts.values()))
    shares = shares / (shares.sum() + 1e-12)
    shares = np.where(shares < 0.02, 0.0, shares)
    if shares.sum() == 0:
        return 100.0
    shares /= shares.sum()
    rates, prices = _SOLVENTS[:, 3], _SOLVENTS[:, 4]
    times = np.append(0.0, np.geomspace(1e-3, 1e3, 100))
    left = np.exp(-rates * times[:, None]) @ shares
    excess, time = 0.0, 0.0
    for remaining in (1.0, 0.5, 0.1):
        time = np.interp(-remaining, -left, times)
        blend = shares * np.exp(-rates * time)
        apart = (blend / blend.sum()) @ _SOLVENTS[:, :3] - [18.6, 10.5, 7.5]
        distance = math.sqrt(np.sum([4.0, 1.0, 1.0] * apart**2)) / 8.6
        excess += _excess(distance / 0.6)
    excess += _excess(time / 2.3)
    return float(prices @ shares) * (1 + excess) ** 2


# --- control --------------------------------------------------------------------------


@functools.cache
def _pendulum() -> Any:
    import gymnasium
    import mujoco

    folder = Path(gymnasium.__file__).parent / "envs" / "mujoco" / "assets"
    model = mujoco.MjModel.from_xml_path(str(folder / "inverted_double_pendulum.xml"))
    return model, mujoco.MjData(model)


@_problem(
    package="mujoco",
    place=real(-5, 5),
    angle=real(-20, 20),
    elbow=real(-20, 20),
    speed=real(-5, 5),
    turning=real(-5, 5),
    elbow_turning=real(-5, 5),
)
def pendulum(**gains: float) -> float:
    """Gains that keep a double pendulum upright on a cart, in MuJoCo.

    The model, the reward of a step and when an episode ends are those of Gymnasium's
    ``InvertedDoublePendulum-v5``; the force is linear in the six numbers of the state.
    Three episodes of 100 steps from three tilted starts; the value is the reward that
    was missed, 10 a step.
    """
    import mujoco

    model, data = _pendulum()
    gain = list(gains.values())
    missed = 0.0
    for start in ((0.0, 0.08, 0.0), (0.2, -0.05, 0.1), (-0.3, 0.0, -0.1)):
        mujoco.mj_resetData(model, data)
        data.qpos[:] = start
        mujoco.mj_forward(model, data)
        for step in range(100):
            state = [*data.qpos, *data.qvel]
            force = sum(k * s for k, s in zip(gain, state, strict=True))
            data.ctrl[0] = min(1.0, max(-1.0, force))
            mujoco.mj_step(model, data, 5)
            x, _, y = data.site_xpos[0]
            _, v1, v2 = data.qvel
            if y <= 1:
                missed += 10 * (100 - step)
                break
            missed += 0.01 * x**2 + (y - 2) ** 2 + 1e-3 * v1**2 + 5e-3 * v2**2
    return missed / 300
