"""All methods side by side: what each solves, its orders, what a step costs, and where it stands."""

from __future__ import annotations

from collections.abc import Sequence

from sdesolve.methods.method import Method

HEADER = ("method", "calculus", "noise", "strong order", "weak order", "adaptive", "f + g a step", "asks for", "source")


def as_table(methods: Sequence[Method]) -> str:
    """A table in Markdown, a section for each kind of problem."""
    sections = []
    for problem in ("ode", "sde"):
        rows = [_row(method) for method in methods if method.problem == problem]
        columns = range(len(HEADER)) if problem == "sde" else (0, 3, 5, 6, 8)
        title = {"ode": "ODE methods", "sde": "SDE methods"}[problem]
        names = tuple("order" if name == "strong order" and problem == "ode" else name for name in HEADER)
        lines = [[row[i] for i in columns] for row in (names, tuple("---" for _ in HEADER), *rows)]
        if rows:
            sections.append(f"{title}\n\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines))
    return "\n\n".join(sections)


def _row(method: Method) -> tuple[str, ...]:
    noise = "additive only" if method.additive_only else ", ".join(method.noise)
    if method.commutative_only:
        noise += " (commutative)"
    first = method.first_evaluations and method.drift_evaluations
    return (
        method.name + (f" ({method.made_for})" if method.made_for else ""),
        ", ".join(method.calculus),
        noise,
        _orders(method.order, method.order_commutative, method.order_additive, method.additive_only),
        _orders(method.weak_order, method.weak_order_commutative, method.weak_order_additive, method.additive_only),
        "no" if method.error_order is None else "yes",
        _cost(method) + (" (first one kept)" if first else ""),
        (method.levy or "W") + " (general)" * method.levy_mixed_only if method.problem == "sde" else "",
        method.source,
    )


def _cost(method: Method) -> str:
    """Evaluations a step."""
    drifts = f"{method.drift_evaluations}"
    if method.problem == "ode":
        return drifts
    found = [f"{drifts} + {method.diffusion_evaluations}"]
    if method.general_diffusion_evaluations is not None:
        fixed, each = method.general_diffusion_evaluations
        found.append(f"{drifts} + ({fixed} + {'' if each == 1 else f'{each} '}m) general")
    if method.additive_diffusion_evaluations is not None:
        found.append(f"{drifts} + {method.additive_diffusion_evaluations} additive")
    return "; ".join(found)


def _orders(order: float | None, commutative: float | None, additive: float | None, only: bool) -> str:
    if order is None:
        return "?"
    found = [f"{order:g}"]
    if not only:
        found += [f"{commutative:g} commutative"] if commutative not in (None, order) else []
        found += [f"{additive:g} additive"] if additive not in (None, order, commutative) else []
    return "; ".join(found)
