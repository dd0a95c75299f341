"""What the validation of Langevin dynamics says of methods that are wrong."""

import numpy as np
import pytest
from scipy import integrate

from sdesolve.methods import METHODS, made_for
from validation.check import Settings
from validation.sections.langevin import Orthogonal, bias, cases, gaussian, strong_order

QUICK = Settings(quick=True)
BAOAB, OBABO, QUICSORT = (METHODS["sde", name] for name in ("baoab", "obabo", "quicsort"))


class WithoutK(type(QUICSORT)):
    """Quicsort that leaves the noise of K out, which changes the law by no more than its order, but not the path."""

    def step(self, system, state, inc, *, error=False, dense=False):
        return super().step(system, state, inc._replace(K=0 * inc.K))


def colder(method):
    """The method with noise that is one percent too small."""

    class Colder(type(method)):
        def step(self, system, state, inc, *, error=False, dense=False):
            return super().step(system, state, inc._replace(w=0.99 * inc.w))

    return Colder()


@pytest.mark.parametrize("method", [BAOAB, OBABO, QUICSORT], ids=lambda m: m.name)
def test_wrong_stationary_laws_are_seen(method):
    assert not next(gaussian(colder(method), QUICK)).passed
    if method is not QUICSORT:  # for the sake of time
        assert not next(bias(colder(method), QUICK)).passed


def test_a_wrong_path_is_seen():
    assert not next(strong_order(WithoutK(), QUICK)).passed


def test_every_langevin_method_is_measured():
    found = {case.name for case in cases(QUICK)}
    assert {f"{name}, Langevin, strong order" for name in made_for("Langevin")} <= found


def test_gauss_rules_of_the_double_well_are_exact_for_polynomials():
    fine = np.linspace(-4, 4, 2001)
    density = np.exp(-((fine**2 - 1) ** 2))
    nodes, weights = Orthogonal.under(fine, density / density.sum(), 12).rule(12)
    moment = lambda k: integrate.quad(lambda x: x**k * np.exp(-((x * x - 1) ** 2)), -5, 5, epsabs=1e-13)[0]
    for k in (2, 8, 16):
        assert weights @ nodes**k == pytest.approx(moment(k) / moment(0), rel=1e-10)
