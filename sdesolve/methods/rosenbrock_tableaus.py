"""The Rosenbrock methods for stiff ODEs: their coefficients and where these stand."""

from __future__ import annotations

from sdesolve.methods.rosenbrock import Rosenbrock, Tableau


def _rosenbrock23() -> Tableau:
    """In the paper's stages h k_1 = u_1 / d, h k_2 = (u_1 + u_2) / d, h k_3 = (2 u_1 + e_32 u_2 + u_3) / d:
    y_1 = y + h k_2,  the other solution, of order 3, is y_1 + h (k_1 - 2 k_2 + k_3) / 6,  and
    y(theta) = y + h (theta (1 - theta) k_1 + theta (theta - 2 d) k_2) / (1 - 2 d).

    Steps go on from the solution of lower order, which is the L-stable one: as the error of a step is of order h^3 and
    that of the solution of order h^2, the latter falls with the tolerance to the power 2/3."""
    root = 2**0.5
    d, e32 = 1 / (2 + root), 6 + root
    g = 1 / d
    bent = g / (1 - 2 * d)
    other = (g / 6, (e32 - 2) * g / 6, g / 6)
    b = (g, g, 0.0)
    return Tableau(
        gamma=d,
        a=((), (g / 2,), (g, g)),
        c=((), (-g,), (-2 * g, -e32 * g)),
        b=b,
        nodes=(0.0, 0.5, 1.0),
        slopes=(d, 0.0, -d),
        embedded=tuple(weight + part for weight, part in zip(b, other, strict=True)),
        embedded_order=3,
        dense=((g, 0.0), (-2 * d * bent, bent), (0.0, 0.0)),
    )


ROSENBROCK23 = Rosenbrock(
    "rosenbrock23", 2, _rosenbrock23(), "Shampine & Reichelt 1997, SIAM J. Sci. Comput. 18:1, section 2.3 (ode23s)"
)


def _rodas5p() -> Tableau:
    """y(theta) = (1 - theta) y + theta (y_1 + (1 - theta) (p_1 + theta p_2 + theta^2 p_3)), p_j = sum_i h_ji u_i. Both
    solutions are stiffly accurate; of linear equations with constant coefficients the first has order 6."""
    last = (-7.502846399306121, 2.561846144803919, -11.627539656261098, -0.18268767659942256, 0.030198172008377946)
    b = (*last, 1.0, 1.0, 1.0)
    p1, p2, p3 = (
        (
            25.948786856663858,
            -2.5579724845846235,
            10.433815404888879,
            -2.3679251022685204,
            0.524948541321073,
            1.1241088310450404,
            0.4272876194431874,
            -0.17202221070155493,
        ),
        (
            -9.91568850695171,
            -0.9689944594115154,
            3.0438037242978453,
            -24.495224566215796,
            20.176138334709044,
            15.98066361424651,
            -6.789040303419874,
            -6.710236069923372,
        ),
        (
            11.419903575922262,
            2.8879645146136994,
            72.92137995996029,
            80.12511834622643,
            -52.072871366152654,
            -59.78993625266729,
            -0.15582684282751913,
            4.883087185713722,
        ),
    )
    return Tableau(
        gamma=0.21193756319429014,
        a=(
            (),
            (3.0,),
            (2.849394379747939, 0.45842242204463923),
            (-6.954028509809101, 2.489845061869568, -10.358996098473584),
            (2.8029986275628964, 0.5072464736228206, -0.3988312541770524, -0.04721187230404641),
            last,
            (*last, 1.0),
            (*last, 1.0, 1.0),
        ),
        c=(
            (),
            (-14.155112264123755,),
            (-17.97296035885952, -2.859693295451294),
            (147.12150275711716, -1.41221402718213, 71.68940251302358),
            (165.43517024871676, -0.4592823456491126, 42.90938336958603, -5.961986721573306),
            (24.854864614690072, -3.0009227002832186, 47.4931110020768, 5.5814197821558125, -0.6610691825249471),
            (
                30.91273214028599,
                -3.1208243349937974,
                77.79954646070892,
                34.28646028294783,
                -19.097331116725623,
                -28.087943162872662,
            ),
            (
                37.80277123390563,
                -3.2571969029072276,
                112.26918849496327,
                66.9347231244047,
                -40.06618937091002,
                -54.66780262877968,
                -9.48861652309627,
            ),
        ),
        b=b,
        nodes=(0.0, 0.6358126895828704, 0.4095798393397535, 0.9769306725060716, 0.4288403609558664, 1.0, 1.0, 1.0),
        slopes=(
            0.21193756319429014,
            -0.42387512638858027,
            -0.3384627126235924,
            1.8046452872882734,
            2.325825639765069,
            0.0,
            0.0,
            0.0,
        ),
        embedded=(*last, 1.0, 1.0, 0.0),
        embedded_order=4,
        dense=tuple((m + x, y - x, z - y, -z) for m, x, y, z in zip(b, p1, p2, p3, strict=True)),
    )


RODAS5P = Rosenbrock("rodas5p", 5, _rodas5p(), "Steinebach 2023, BIT Numer. Math. 63:27")

ROSENBROCK = (ROSENBROCK23, RODAS5P)
