"""The table of methods says of each what its class says, and the command prints it."""

import re
import subprocess
import sys

import pytest

import sdesolve as ss
from sdesolve.__main__ import main
from sdesolve.methods import METHODS, Method
from sdesolve.methods.table import as_table


def read(text):
    """{(problem, method): {column: cell}} of all rows."""
    found = {}
    for title, rest in re.findall(r"(ODE|SDE) methods\n\n((?:\|.*\n?)+)", text):
        lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in rest.strip().splitlines()]
        header, rule, *rows = lines
        assert all(set(cell) == {"-"} for cell in rule)
        found |= {(title.lower(), row[0]): dict(zip(header, row, strict=True)) for row in rows}
    return found


TABLE = read(ss.methods.table())


def orders(cell):
    """{"": 0.5, "commutative": 1.0}"""
    return {} if cell == "-" else {w: float(n) for n, w in re.findall(r"([\d.]+) ?(\w*)", cell)}


def test_every_method_has_a_row_and_there_are_no_others():
    assert TABLE.keys() == METHODS.keys()


@pytest.mark.parametrize("key", METHODS, ids=" ".join)
def test_a_row_says_what_the_class_says(key):
    method, row = METHODS[key], TABLE[key]
    assert row["source"] == method.source
    assert row["adaptive"] == ("no" if method.error_order is None else "yes")
    evaluations = row["f" if key[0] == "ode" else "f + g"]
    assert evaluations.endswith("*") == bool(method.first_evaluations)
    pairs = [tuple(map(int, re.findall(r"\d+", part))) for part in evaluations.split("(")]
    plain, adaptive = pairs[0], pairs[-1]
    assert plain[0] == method.drift_evaluations
    if method.error_order is not None:
        assert adaptive[0] == method.drift_evaluations + method.error_drift_evaluations
    if key[0] == "ode":
        assert orders(row["order"]) == {"": method.order}
        return
    assert plain[1] == method.diffusion_evaluations
    assert adaptive[1] == method.diffusion_evaluations + (method.error_order is not None) * (
        method.error_diffusion_evaluations
    )
    assert tuple(row["calculus"].split(", ")) == method.calculus
    if method.made_for is not None:
        assert row["noise"] == f"ss.{method.made_for} problems"
        return
    noise = re.match(r"[a-z, ]+?(?=( commutative)?(; additive)?$)", row["noise"])
    assert tuple(noise[0].split(", ")) == method.noise
    assert row["noise"].endswith("; additive") == method.additive_only
    assert row["noise"].endswith(" commutative") == (method.commutative_only and not method.additive_only)
    told = orders(row["strong order"])
    best = lambda *words: next((told[w] for w in words if w in told), None)
    assert best("") == method.order
    if not method.additive_only:
        assert best("commutative", "") == (method.order_commutative or method.order)
        assert best("additive", "commutative", "") == (
            method.order_additive or method.order_commutative or method.order
        )
    weak = orders(row["weak order"])
    assert weak.get("") == method.weak_order
    worth = lambda *words: next((weak[w] for w in words if w in weak), None)
    if not method.additive_only:
        assert worth("commutative", "") == method.weak_order_for("commutative")
        assert worth("additive", "commutative", "") == method.weak_order_for("additive")
    letters = {None: "W", "space-time": "W, H", "space-time-time": "W, H, K", "davie-foster": "W, H, areas"}
    assert row["asks for"] == letters[method.levy] + " (general)" * method.levy_mixed_only
    if method.general_diffusion_evaluations is not None:
        fixed, each = method.general_diffusion_evaluations
        assert f" + {fixed} + {'' if each == 1 else each}m general" in evaluations
    if method.additive_diffusion_evaluations is not None:
        assert f" + {method.additive_diffusion_evaluations} additive" in evaluations


def test_the_table_is_aligned():
    for block in re.findall(r"(?:^\|.*\n?)+", ss.methods.table(), re.MULTILINE):
        places = {tuple(i for i, c in enumerate(line) if c == "|") for line in block.strip().splitlines()}
        assert len(places) == 1


class Unknown(Method):
    name, problem, order, weak_order = "unknown", "sde", None, None
    calculus, noise, source = ("ito",), ("scalar",), "nobody"
    drift_evaluations = diffusion_evaluations = 1


def test_what_is_not_known_is_a_dash():
    row = read(as_table([Unknown()]))["sde", "unknown"]
    assert row["strong order"] == row["weak order"] == "-"
    assert as_table([]) == ""


@pytest.mark.parametrize("problem", ["ode", "sde"])
def test_one_kind_of_problem_is_part_of_the_whole(problem):
    assert read(ss.methods.table(problem)) == {key: row for key, row in TABLE.items() if key[0] == problem}


@pytest.mark.parametrize("kind", ["Langevin", "Semilinear", "Hamiltonian"])
def test_methods_made_for_a_kind_of_problem_are_a_part_of_the_whole(kind):
    made = {key: row for key, row in TABLE.items() if METHODS[key].made_for == kind}
    assert read(ss.methods.table(kind.lower())) == made
    assert {name for _, name in made} == set(ss.methods.made_for(kind))
    if kind != "Hamiltonian":
        assert {problem for problem, _ in read(ss.methods.table(kind.lower(), noise="diagonal"))} == {"sde"}


@pytest.mark.parametrize("noise", [None, "diagonal", "general"])
@pytest.mark.parametrize("calculus", [None, "ito", "stratonovich"])
def test_filters_leave_the_methods_that_fit(noise, calculus):
    found = read(ss.methods.table("sde", noise=noise, calculus=calculus))
    fits = lambda m: (noise is None or noise in m.noise) and (calculus is None or calculus in m.calculus)
    assert found.keys() == {key for key, m in METHODS.items() if key[0] == "sde" and fits(m)}
    if noise or calculus:
        assert ss.methods.table(noise=noise, calculus=calculus) == ss.methods.table(
            "sde", noise=noise, calculus=calculus
        )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            {"problem": "pde"},
            "problem: got 'pde'; accepted is 'ode', 'sde', 'langevin', 'semilinear', 'hamiltonian' or None",
        ),
        ({"problem": "hamiltonian", "noise": "scalar"}, "problem: got 'hamiltonian' with noise or calculus"),
        ({"noise": "white"}, "noise: got 'white'; accepted is 'diagonal', 'scalar', 'general' or None"),
        ({"calculus": "Ito"}, "calculus: got 'Ito'; accepted is 'ito', 'stratonovich' or None"),
        ({"problem": "ode", "noise": "scalar"}, "problem: got 'ode' with noise or calculus; accepted is 'sde' or None"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, words):
    with pytest.raises(ValueError) as caught:
        ss.methods.table(**arguments)
    assert str(caught.value).startswith(words)


@pytest.mark.parametrize(
    ("arguments", "facts"),
    [
        ([], {}),
        (["--problem", "ode"], {"problem": "ode"}),
        (["--problem", "langevin"], {"problem": "langevin"}),
        (["--noise", "diagonal", "--calculus", "ito"], {"noise": "diagonal", "calculus": "ito"}),
    ],
)
def test_the_command_prints_the_table(arguments, facts, capsys):
    main(["methods", *arguments])
    assert capsys.readouterr().out == ss.methods.table(**facts) + "\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "command"),
        (["methods", "--problem", "pde"], "invalid choice: 'pde'"),
        (["methods", "--problem", "ode", "--noise", "scalar"], "accepted with them is --problem sde"),
        (["solve"], "invalid choice: 'solve'"),
    ],
)
def test_commands_that_make_no_sense_end_with_usage(arguments, words, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


def test_the_module_is_the_command():
    run = [sys.executable, "-m", "sdesolve", "methods", "--problem", "ode"]
    done = subprocess.run(run, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and done.stdout == ss.methods.table("ode") + "\n"
