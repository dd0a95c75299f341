"""What a failed solve says."""

from __future__ import annotations

from torch import Tensor

from sdesolve.errors import SolveError
from sdesolve.loop import failed
from sdesolve.methods import Method
from sdesolve.plan import Result
from sdesolve.solution import Solution, Status


def failure(result: Result, solution: Solution, ids: Tensor, method: Method) -> SolveError:
    """Of the first trajectory that failed: when, why, and what to do; with the partial solution."""
    assert result.status is not None
    wrong = failed(result.status).nonzero().flatten()
    reason = Status(int(result.status[wrong[0]]))
    time = float(result.reached[wrong[0]])
    paths = ids[wrong].tolist()
    shown = ", ".join(map(str, paths[:8])) + (", ..." if len(paths) > 8 else "")
    advice = {
        Status.NONFINITE: "Check the right-hand side there, or take smaller steps.",
        Status.STEP_UNDERFLOW: "The solution may grow without bound there; otherwise loosen rtol and atol (or lower "
        "PID's dt_min), use float64, or name a discontinuity in ss.PID(jumps=).",
        Status.MAX_STEPS: "Raise max_steps, or loosen rtol and atol. A stiff problem ends so too: for a stiff SDE take "
        "implicit_milstein or, where its noise is additive, esdirk_sra; for a stiff ODE 'auto', or rodas5p, or "
        "rosenbrock23 where tolerances are loose.",
        Status.ZENO: "Events follow each other ever faster: end the trajectory with a terminal event, or let affect "
        "bring it to rest away from the condition's zero.",
        Status.NOT_CONVERGED: f"Take smaller steps, or more iterations: {_more_iterations(method)}. Newton's "
        "method asks for a drift that is finite there, and that torch.func can differentiate.",
        Status.DREW_APART: "Such methods are not stable where an equation forgets its start: solve with "
        "adjoint='checkpoint' and another method, or take shorter steps with a smaller ss.Reversible(coupling=).",
    }.get(reason, "Take smaller steps.")
    return SolveError(
        f"{len(paths)} of {len(ids)} trajectories failed (ids {shown}); the first one after t = {time:.6g}: "
        f"{reason.text}. {advice} The partial solution is in .solution of this exception; "
        'on_failure="return" returns it, with .status for each trajectory.',
        reason=reason,
        time=time,
        paths=paths,
        solution=solution,
    )


def _more_iterations(method: Method) -> str:
    """How to write a method of this kind with twice as many."""
    return f"method=ss.methods.{type(method).__name__}(iterations={2 * getattr(method, 'iterations', 5)})"
