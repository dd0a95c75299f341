"""All methods side by side: what each solves, its orders, what a step costs, and where it stands."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sdesolve.methods.method import Method

#: what a step asks of the path, by `Method.levy`
INFORMATION = {
    None: "W",
    "space-time": "W, H",
    "space-time-time": "W, H, K",
    "davie-foster": "W, H, areas",
}

NOTES = """\
f + g: evaluations of drift and diffusion a step (while steps adapt, where that is more); *: the first is the last of
the step before; ~: about, as iterations differ. Orders: "commutative" is diagonal and scalar noise, and general noise
with commutative=True; "additive" is any noise with additive=True; -: not known. m: Brownian motions of general noise.
Asks for: W, increments of the path; H, K, its space-time Levy areas; areas, those between its components."""


def as_table(methods: Sequence[Method]) -> str:
    """Aligned tables in Markdown, one for each kind of problem that is there."""
    sections = []
    for problem, columns in COLUMNS.items():
        rows = [[value(method) for value in columns.values()] for method in methods if method.problem == problem]
        if rows:
            sections += [f"{problem.upper()} methods", _aligned([list(columns), *rows])]
    return "\n\n".join([*sections, NOTES]) if sections else ""


def _aligned(rows: Sequence[Sequence[str]]) -> str:
    """The first row is the header."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in rows]
    padded.insert(1, ["-" * width for width in widths])
    return "\n".join("| " + " | ".join(row) + " |" for row in padded)


def _noise(method: Method) -> str:
    if method.made_for is not None:
        return f"ss.{method.made_for} problems"
    names = ", ".join(method.noise)
    if method.additive_only:
        return f"{names}; additive"
    return f"{names} commutative" if method.commutative_only else names


def _strong(method: Method) -> str:
    """By what the noise is: general, commutative, additive; where more is known than for the one before."""
    found: dict[str, float | None] = {"": method.order}
    if not method.additive_only:
        found |= {" commutative": method.order_commutative, " additive": method.order_additive}
    return _orders(found)


def _weak(method: Method) -> str:
    found = {"": method.weak_order}
    if not method.additive_only:
        found |= {" commutative": method.weak_order_commutative, " additive": method.weak_order_additive}
    return _orders(found)


def _orders(found: Mapping[str, float | None]) -> str:
    told: list[str] = []
    last: float | None = None
    for word, order in found.items():
        if order is not None and order != last:
            told.append(f"{order:g}{word}")
            last = order
    return "; ".join(told) or "-"


def _evaluations(method: Method) -> str:
    """A step, and while steps adapt, where that is more."""
    sde = method.problem == "sde"

    def cost(error: bool) -> str:
        f = method.evaluations(error=error)
        g = method.diffusion_evaluations + (method.error_diffusion_evaluations if error else 0)
        return f"{f} + {g}" if sde else f"{f}"

    plain, adaptive = cost(False), cost(True)
    more = f" ({adaptive})" if method.error_order is not None and adaptive != plain else ""
    return (
        "~" * method.reports_evaluations
        + plain
        + more
        + ("*" if method.first_evaluations else "")
        + _other_evaluations(method)
    )


def _other_evaluations(method: Method) -> str:
    """Of the diffusion, where the form of the noise makes a difference."""
    found = ""
    if method.general_diffusion_evaluations is not None:
        fixed, each = method.general_diffusion_evaluations
        found += f"; {method.drift_evaluations} + {fixed} + {'' if each == 1 else each}m general"
    if method.additive_diffusion_evaluations is not None:
        found += f"; {method.drift_evaluations} + {method.additive_diffusion_evaluations} additive"
    return found


def _adaptive(method: Method) -> str:
    return "no" if method.error_order is None else "yes"


#: for each kind of problem, the columns and what stands in them
COLUMNS: dict[str, dict[str, Callable[[Method], str]]] = {
    "ode": {
        "method": lambda method: method.name,
        "order": lambda method: _orders({"": method.order}),
        "adaptive": _adaptive,
        "f": _evaluations,
        "source": lambda method: method.source,
    },
    "sde": {
        "method": lambda method: method.name,
        "calculus": lambda method: ", ".join(method.calculus),
        "noise": _noise,
        "strong order": _strong,
        "weak order": _weak,
        "adaptive": _adaptive,
        "f + g": _evaluations,
        "asks for": lambda method: INFORMATION[method.levy] + " (general)" * method.levy_mixed_only,
        "source": lambda method: method.source,
    },
}
