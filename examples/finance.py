"""Stock prices as geometric Brownian motion and interest rates that return to a mean, fitted, simulated and priced.

    python examples/finance.py --output out/finance

    dS = mu S dt + sigma S dW                     the S&P 500, monthly from 1990 on (from matplotlib's sample data)
    dr = kappa (level - r) dt + sigma dW          Treasury bills, quarterly from 1959 on (from statsmodels), Vasicek
    dr = kappa (level - r) dt + sigma sqrt(r) dW  the same by Cox, Ingersoll & Ross

Mean m and variance v of where a model leads from one observation until the next obey an ODE; solved for all
observations at once, it gives a Gaussian likelihood, which gradients through the solve make largest. That is the exact
likelihood of the first (in log S) and the second model, whose maximum is known, too, and an approximation for the
third, whose own transition density is a non-central chi-square. The last ten years are held out: there the fans are
drawn.

Black & Scholes (1973), J. Political Economy 81:637. Vasicek (1977), J. Financial Economics 5:177. Cox, Ingersoll & Ross
(1985), Econometrica 53:385, eq. (18) for the density. Lord, Koekkoek & van Dijk (2010), Quantitative Finance 10:177,
for the square root below zero.
"""

from __future__ import annotations

import argparse
import csv
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import statsmodels.api as sm
import torch
from matplotlib.axes import Axes
from scipy import optimize, stats
from torch import Tensor

import sdesolve as ss

matplotlib.use("Agg")
import matplotlib.pyplot as plt

MONTH, QUARTER = 1 / 12, 1 / 4  # the unit of time is a year
HELD_OUT = 10.0  # years
BAND = (0.05, 0.25, 0.5, 0.75, 0.95)
INTEREST, EXPIRY, STRIKE = 0.03, 1.0, 1.05  # of the option; the strike in units of the price today
F64 = torch.float64

Moments = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
"""(m, v) -> (dm/dt, dv/dt)."""


def stocks() -> tuple[np.ndarray, Tensor]:
    """Years, and the S&P 500 on the first of each month."""
    file = Path(matplotlib.get_data_path()) / "sample_data" / "Stocks.csv"
    lines = [line for line in file.read_text().splitlines() if not line.startswith("#")]
    rows = [row for row in csv.DictReader(lines) if row["Date"].endswith("-01") and row["^GSPC"]]
    years = [int(row["Date"][:4]) + (int(row["Date"][5:7]) - 1) / 12 for row in rows]
    return np.array(years), torch.tensor([float(row["^GSPC"]) for row in rows], dtype=F64)


def rates() -> tuple[np.ndarray, Tensor]:
    """Years, and the rates of three-month bills (0.05 for 5 %)."""
    table = sm.datasets.macrodata.load_pandas().data
    years = (table["year"] + (table["quarter"] - 1) / 4).to_numpy()
    return years, torch.tensor(table["tbilrate"].to_numpy() / 100, dtype=F64)


def log_likelihood(moments: Moments, seen: Tensor, gap: float) -> Tensor:
    """Of each transition, (n - 1,), as a Gaussian whose mean and variance obey the moments' ODE."""
    start = torch.stack([seen[:-1], torch.zeros_like(seen[1:])], 1)
    ode = ss.ODE(lambda t, y: torch.stack(moments(y[:, 0], y[:, 1]), 1))
    end = ss.solve(ode, start, torch.tensor([0.0, gap], dtype=F64), rtol=1e-9, atol=1e-12).ys[-1]
    return torch.distributions.Normal(end[:, 0], end[:, 1].sqrt()).log_prob(seen[1:])


def fit(model: Callable[[Tensor], Moments], guess: Sequence[float], seen: Tensor, gap: float) -> Tensor:
    """Parameters of the largest likelihood, by quasi-Newton steps."""
    parameters = torch.tensor(guess, dtype=F64, requires_grad=True)
    search = torch.optim.LBFGS(
        [parameters], max_iter=60, tolerance_grad=1e-9, tolerance_change=1e-14, line_search_fn="strong_wolfe"
    )

    def loss() -> float:
        search.zero_grad()
        value = -log_likelihood(model(parameters), seen, gap).mean()
        value.backward()
        return float(value.detach())

    search.step(loss)
    return parameters.detach()


def geometric(p: Tensor) -> Moments:
    """Of log S, for p = (mu, log sigma)."""
    variance = torch.exp(2 * p[1])
    return lambda m, v: ((p[0] - 0.5 * variance).expand_as(m), variance.expand_as(v))


def vasicek(p: Tensor) -> Moments:
    """Of r, for p = (log kappa, level, log sigma)."""
    kappa, variance = p[0].exp(), torch.exp(2 * p[2])
    return lambda m, v: (kappa * (p[1] - m), variance - 2 * kappa * v)


def square_root(p: Tensor) -> Moments:
    """Of r, for p = (log kappa, level, log sigma)."""
    kappa, variance = p[0].exp(), torch.exp(2 * p[2])
    return lambda m, v: (kappa * (p[1] - m), variance * m - 2 * kappa * v)


def fit_geometric(seen: Tensor, gap: float) -> tuple[float, float]:
    """The same mu and sigma in closed form."""
    returns = seen.diff()
    sigma = float(returns.std(correction=0)) / gap**0.5
    return float(returns.mean()) / gap + 0.5 * sigma**2, sigma


def fit_vasicek(seen: Tensor, gap: float) -> tuple[float, float, float]:
    """The same kappa, level and sigma in closed form: least squares of r(t + gap) on r(t)."""
    x, y = seen[:-1], seen[1:]
    slope = float(((x - x.mean()) * (y - y.mean())).mean() / x.var(correction=0))
    level = float(y.mean() - slope * x.mean()) / (1 - slope)
    left = float((y - level - slope * (x - level)).square().mean())
    kappa = -math.log(slope) / gap
    return kappa, level, math.sqrt(2 * kappa * left / (1 - slope**2))


def normal(kappa: float, level: float, sigma: float, now: Any, gap: float) -> Any:
    """The law of r(t + gap) given r(t) = now, of Vasicek's model."""
    spread = sigma * math.sqrt(-math.expm1(-2 * kappa * gap) / (2 * kappa))
    return stats.norm(level + (now - level) * math.exp(-kappa * gap), spread)


def chi_square(kappa: float, level: float, sigma: float, now: Any, gap: float) -> Any:
    """The same of the square-root model."""
    scale = sigma**2 * -math.expm1(-kappa * gap) / (4 * kappa)
    return stats.ncx2(4 * kappa * level / sigma**2, now * math.exp(-kappa * gap) / scale, scale=scale)


def fit_square_root(guess: Sequence[float], seen: Tensor, gap: float) -> tuple[float, float, float]:
    """kappa, level and sigma of the largest exact likelihood, from a guess."""
    x = seen.numpy()

    def loss(p: np.ndarray) -> float:
        kappa, level, sigma = np.exp(p)
        return -float(chi_square(kappa, level, sigma, x[:-1], gap).logpdf(x[1:]).mean())

    kappa, level, sigma = np.exp(optimize.minimize(loss, np.log(guess), method="Nelder-Mead").x)
    return float(kappa), float(level), float(sigma)


def stock_sde(mu: float, sigma: float) -> ss.SDE:
    return ss.SDE(lambda t, s: mu * s, lambda t, s: sigma * s)


def vasicek_sde(kappa: float, level: float, sigma: float) -> ss.SDE:
    return ss.SDE(lambda t, r: kappa * (level - r), lambda t, r: sigma * torch.ones_like(r), additive=True)


def square_root_sde(kappa: float, level: float, sigma: float) -> ss.SDE:
    return ss.SDE(lambda t, r: kappa * (level - r.clamp(min=0)), lambda t, r: sigma * r.clamp(min=0).sqrt())


def fan(sde: ss.SDE, now: float, times: Tensor, paths: int, seed: int, **how: Any) -> Tensor:
    """Values at the times, (T, paths)."""
    found: Tensor = ss.solve(sde, torch.full((paths, 1), now, dtype=F64), times, seed=seed, **how).ys
    return found[..., 0]


def off(values: Tensor, exact: np.ndarray) -> float:
    """Parts of the values (T, paths) below the exact quantiles (T, 5), in standard errors off what they should be: the
    largest, over some few times that tell much the same."""
    share = (values[..., None] < torch.tensor(exact)[:, None]).double().mean(1)
    wanted = torch.tensor(BAND, dtype=F64)
    return float(((share - wanted).abs() / (wanted * (1 - wanted) / values.shape[1]).sqrt()).max())


def inside(seen: Tensor, quantiles: np.ndarray) -> float:
    """The part of what was seen that lies between the outer quantiles."""
    values = seen.numpy()
    return float(((quantiles[:, 0] < values) & (values < quantiles[:, -1])).mean())


def call_option(price: float, sigma: float, paths: int, seed: int) -> tuple[Tensor, Tensor]:
    """What each path pays, discounted, and its derivative by the price today, through the solve."""
    now = torch.full((paths, 1), price, dtype=F64, requires_grad=True)
    times = torch.tensor([0.0, EXPIRY], dtype=F64)
    end = ss.solve(stock_sde(INTEREST, sigma), now, times, dt=MONTH, method="sosri", seed=seed).ys[-1]
    paid = math.exp(-INTEREST * EXPIRY) * (end - STRIKE * price).clamp(min=0)
    (delta,) = torch.autograd.grad(paid.sum(), now)
    return paid.detach()[:, 0], delta[:, 0]


def black_scholes(price: float, sigma: float) -> tuple[float, float]:
    """The option's value and its derivative by the price today."""
    spread = sigma * EXPIRY**0.5
    d = (-math.log(STRIKE) + INTEREST * EXPIRY) / spread + 0.5 * spread
    strike = STRIKE * price * math.exp(-INTEREST * EXPIRY)
    delta = float(stats.norm.cdf(d))
    return price * delta - strike * float(stats.norm.cdf(d - spread)), delta


def strong_errors(mu: float, sigma: float, steps: Sequence[int], paths: int) -> dict[str, list[float]]:
    """Root-mean-square errors of S at one year along the same Brownian paths, of several methods."""
    sde, path = stock_sde(mu, sigma), ss.BrownianPath(0, (paths, 1), cell=1 / max(steps), dtype=F64)
    start, times = torch.ones(paths, 1, dtype=F64), torch.tensor([0.0, 1.0], dtype=F64)
    moved = path(0.0, 1.0)
    assert isinstance(moved, Tensor)
    exact = torch.exp(mu - 0.5 * sigma**2 + sigma * moved)

    def error(method: str, n: int) -> float:
        found = ss.solve(sde, start, times, dt=1 / n, method=method, brownian=path).ys[-1]
        return float((found - exact).square().mean().sqrt())

    return {method: [error(method, n) for n in steps] for method in ("euler_maruyama", "milstein", "sosri")}


def draw_fan(axes: Axes, years: np.ndarray, seen: Tensor, when: np.ndarray, drawn: dict[str, tuple[Any, Any]]) -> None:
    """Bands of simulated values, their exact quantiles, and what was seen."""
    for (name, (values, exact)), colour in zip(drawn.items(), ("tab:orange", "tab:blue"), strict=False):
        low, lower, middle, upper, high = np.quantile(values.numpy(), BAND, axis=1)
        axes.fill_between(when, low, high, color=colour, alpha=0.2, label=f"{name}, 5 to 95 %")
        axes.fill_between(when, lower, upper, color=colour, alpha=0.2)
        axes.plot(when, middle, color=colour)
        axes.plot(when[1:], exact[:, [0, -1]], color=colour, linestyle="dotted")
    axes.plot([], [], color="0.3", linestyle="dotted", label="exact quantiles")
    axes.plot(years, seen, color="black", linewidth=1, label="observed")
    axes.axvline(when[0], color="0.5", linewidth=1)
    axes.set(xlabel="year", xlim=(max(years[0], when[0] - 25), when[-1]))
    axes.legend(fontsize=8)


def draw_normality(axes: Axes, residuals: dict[str, np.ndarray]) -> None:
    """Residuals against the quantiles of a normal."""
    for (name, values), mark in zip(residuals.items(), "o.+", strict=False):
        wanted = stats.norm.ppf((np.arange(len(values)) + 0.5) / len(values))
        axes.plot(wanted, np.sort(values), mark, markersize=4, label=name)
    axes.plot([-3, 3], [-3, 3], color="black", linewidth=1)
    axes.set(xlabel="quantile of a normal", ylabel="residual, standardised")
    axes.legend(fontsize=8)


def draw_errors(axes: Axes, steps: Sequence[int], errors: dict[str, list[float]], orders: dict[str, float]) -> None:
    for method, values in errors.items():
        axes.loglog([1 / n for n in steps], values, "o-", label=f"{method}: order {orders[method]:.2f}")
    axes.set(xlabel="step (years)", ylabel="error of S after a year", title="the same Brownian paths in all")
    axes.legend(fontsize=8)


def draw_price(axes: Axes, paid: Tensor, exact: float) -> None:
    """The Monte-Carlo price as paths are added, and two standard errors."""
    count = torch.arange(1, len(paid) + 1)
    mean = paid.cumsum(0) / count
    error = (paid.square().cumsum(0) / count - mean.square()).clamp(min=0).sqrt() / count.sqrt()
    some = slice(99, None, max(1, len(paid) // 500))
    axes.fill_between(
        count[some], (mean - 2 * error)[some], (mean + 2 * error)[some], alpha=0.3, label="two standard errors"
    )
    axes.plot(count[some], mean[some], label="Monte Carlo")
    axes.axhline(exact, color="black", linewidth=1, label="Black & Scholes")
    axes.set(xlabel="paths", ylabel="price of the call", xscale="log")
    axes.legend(fontsize=8)


def study_stock(axes: Sequence[Axes], paths: int, seed: int) -> tuple[dict[str, float], float, float, float]:
    """Fit, fan, residuals; what was found, and mu, sigma and the last price that is not held out."""
    years, prices = stocks()
    known = round(HELD_OUT / MONTH)
    logs, today = prices[:-known].log(), float(prices[-known - 1])
    mu, sigma = fit_geometric(logs, MONTH)
    by_solver = fit(geometric, [0.0, math.log(0.3)], logs, MONTH)
    returns = logs.diff()
    residuals = ((returns - returns.mean()) / returns.std(correction=0)).numpy()
    ahead = MONTH * torch.arange(known + 1, dtype=F64)
    values = fan(stock_sde(mu, sigma), today, ahead, paths, seed, dt=MONTH, method="sosri")
    t = ahead[1:, None].numpy()
    exact = today * np.exp((mu - 0.5 * sigma**2) * t + sigma * t**0.5 * stats.norm.ppf(BAND))
    name = "geometric Brownian motion"
    draw_fan(axes[0], years, prices, years[-known - 1] + ahead.numpy(), {name: (values, exact)})
    axes[0].set(title="S&P 500; behind the line held out", yscale="log")
    draw_normality(axes[1], {"returns of a month": residuals})
    axes[1].set_title("returns have heavier tails than the model")
    report = {
        "stock: mu": mu,
        "stock: sigma": sigma,
        "stock: mu by the solver": float(by_solver[0]),
        "stock: sigma by the solver": float(by_solver[1].exp()),
        "stock: excess kurtosis of the returns": float(stats.kurtosis(residuals)),
        "stock: probability of such returns, were they normal": float(stats.jarque_bera(residuals).pvalue),
        "stock: fan against the exact quantiles, in standard errors": off(values[12::12], exact[11::12]),
        "stock: held-out months in the fan's 5 to 95 %": inside(prices[-known:], exact),
    }
    return report, mu, sigma, today


def study_rates(axes: Sequence[Axes], paths: int, seed: int) -> dict[str, float]:
    """The same of both models that return to a mean."""
    years, seen = rates()
    known = round(HELD_OUT / QUARTER)
    before, now = seen[:-known], float(seen[-known - 1])
    natural = lambda p: (float(p[0].exp()), float(p[1]), float(p[2].exp()))
    linear = fit_vasicek(before, QUARTER)
    approximate = natural(fit(square_root, [math.log(0.5), 0.05, math.log(0.1)], before, QUARTER))
    root = fit_square_root(approximate, before, QUARTER)
    fits = {
        "Vasicek": linear,
        "Vasicek by the solver": natural(fit(vasicek, [math.log(0.5), 0.05, math.log(0.02)], before, QUARTER)),
        "square root": root,
        "square root by Gaussian moments": approximate,
    }
    names = ("kappa", "level", "sigma")
    report = {f"{name}: {k}": v for name, p in fits.items() for k, v in zip(names, p, strict=True)}

    ahead = QUARTER * torch.arange(known + 1, dtype=F64)
    wanted = {
        "Vasicek": np.stack([normal(*linear, now, float(t)).ppf(BAND) for t in ahead[1:]]),
        "square root": np.stack([chi_square(*root, now, float(t)).ppf(BAND) for t in ahead[1:]]),
    }
    found = {
        "Vasicek": fan(vasicek_sde(*linear), now, ahead, paths, seed, dt=QUARTER),
        "square root": fan(square_root_sde(*root), now, ahead, paths, seed + 1, dt=1 / 64, method="euler_maruyama"),
    }
    for name, quantiles in wanted.items():
        report[f"{name}: fan against the exact quantiles, in standard errors"] = off(found[name][4::4], quantiles[3::4])
        report[f"{name}: held-out quarters in the fan's 5 to 95 %"] = inside(seen[-known:], quantiles)
    fans = {name: (found[name], wanted[name]) for name in wanted}
    draw_fan(axes[0], years, seen, years[-known - 1] + ahead.numpy(), fans)
    axes[0].set_title("Treasury bills; behind the line held out")
    x = before.numpy()
    laws = {"Vasicek": normal(*linear, x[:-1], QUARTER), "square root": chi_square(*root, x[:-1], QUARTER)}
    draw_normality(axes[1], {name: stats.norm.ppf(law.cdf(x[1:])) for name, law in laws.items()})
    axes[1].set_title("and so have changes of the rates")
    return report


def study_methods(axes: Axes, mu: float, sigma: float, paths: int) -> dict[str, float]:
    """Strong orders on the fitted equation."""
    steps = (8, 16, 32, 64, 128)
    errors = strong_errors(mu, sigma, steps, paths)
    orders = {name: -float(np.polyfit(np.log(steps), np.log(found), 1)[0]) for name, found in errors.items()}
    draw_errors(axes, steps, errors, orders)
    return {f"strong order of {name}": order for name, order in orders.items()}


def study_option(axes: Axes, today: float, sigma: float, paths: int, seed: int) -> dict[str, float]:
    """Price and delta of a call beside their closed forms."""
    paid, delta = call_option(today, sigma, paths, seed)
    value, exact_delta = black_scholes(today, sigma)
    draw_price(axes, paid, value)
    report = {}
    for name, found, wanted in (("price", paid, value), ("delta", delta, exact_delta)):
        report[f"option: {name}"] = float(found.mean())
        report[f"option: {name}, standard error"] = float(found.std()) / paths**0.5
        report[f"option: {name} by Black & Scholes"] = wanted
    return report


def main(arguments: Sequence[str] | None = None) -> dict[str, float]:
    """Fit, simulate, price and draw; the figures are returned and written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--paths", type=int, default=20_000, help="of the fans and of the option (20000)")
    parser.add_argument("--seed", type=int, default=0, help="of the noise (0)")
    parser.add_argument("--output", type=Path, default=Path("out/finance"), help="folder (out/finance)")
    options = parser.parse_args(arguments)
    figure, axes = plt.subplots(2, 3, figsize=(15, 8), layout="constrained")
    report, mu, sigma, today = study_stock(axes[0, :2], options.paths, options.seed)
    report |= study_methods(axes[0, 2], mu, sigma, min(options.paths, 2000))
    report |= study_rates(axes[1, :2], options.paths, options.seed + 1)
    report |= study_option(axes[1, 2], today, sigma, options.paths, options.seed + 3)
    options.output.mkdir(parents=True, exist_ok=True)
    (options.output / "report.json").write_text(json.dumps(report, indent=2))
    figure.savefig(options.output / "finance.png", dpi=120)
    plt.close(figure)
    for name, number in report.items():
        print(f"{name}: {number:.4g}")
    print(f"picture and report in {options.output}")
    return report


if __name__ == "__main__":
    main()
