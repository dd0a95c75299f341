"""The stochastic Runge-Kutta methods of strong order 1.5: their coefficients and where these stand."""

from __future__ import annotations

from sdesolve.methods.stochastic_runge_kutta import StochasticRungeKutta, StochasticTableau

SRA1 = StochasticRungeKutta(
    "sra1",
    StochasticTableau(
        A0=((), (3 / 4,)),
        B0=((), (3 / 2,)),
        alpha=(1 / 3, 2 / 3),
        beta_w=(1.0, 0.0),
        beta_10=(-1.0, 1.0),
        c0=(0.0, 3 / 4),
        c1=(1.0, 0.0),
        lower_w=(0.0, 1.0),
    ),
    "Roessler 2010, SIAM J. Numer. Anal. 48:922, SRA1",
)

SRA3 = StochasticRungeKutta(
    "sra3",
    StochasticTableau(
        A0=((), (1.0,), (1 / 4, 1 / 4)),
        B0=((), (), (1.0, 1 / 2)),
        alpha=(1 / 6, 1 / 6, 2 / 3),
        beta_w=(1.0, 0.0, 0.0),
        beta_10=(-1.0, 1.0, 0.0),
        c0=(0.0, 1.0, 1 / 2),
        c1=(1.0, 0.0, 0.0),
        lower_w=(0.0, 1.0, 0.0),
    ),
    "Roessler 2010, SIAM J. Numer. Anal. 48:922, SRA3",
)

SOSRA = StochasticRungeKutta(
    "sosra",
    StochasticTableau(
        A0=((), (0.6923962376159507,), (-3.1609142252828395, 4.1609142252828395)),
        B0=((), (1.3371632704399763,), (1.442371048468624, 1.8632741501139225)),
        alpha=(0.2889874966892885, 0.6859880440839937, 0.025024459226717772),
        beta_w=(-16.792534242221663, 17.514995785380226, 0.27753845684143835),
        beta_10=(0.4237535769069274, 0.6010381474428539, -1.0247917243497813),
        c0=(0.0, 0.6923962376159507, 1.0),
        c1=(0.0, 0.041248171110700504, 1.0),
        lower_w=(1.0, 0.0, 0.0),
    ),
    "Rackauckas & Nie 2018, arXiv 1804.04344, SOSRA",
)

SRIW1 = StochasticRungeKutta(
    "sriw1",
    StochasticTableau(
        A0=((), (3 / 4,), (), ()),
        B0=((), (3 / 2,), (), ()),
        A1=((), (1 / 4,), (1.0,), (0.0, 0.0, 1 / 4)),
        B1=((), (1 / 2,), (-1.0,), (-5.0, 3.0, 1 / 2)),
        alpha=(1 / 3, 2 / 3, 0.0, 0.0),
        beta_w=(-1.0, 4 / 3, 2 / 3, 0.0),
        beta_10=(2.0, -4 / 3, -2 / 3, 0.0),
        beta_11=(-1.0, 4 / 3, -1 / 3, 0.0),
        beta_111=(-2.0, 5 / 3, -2 / 3, 1.0),
        c0=(0.0, 3 / 4, 0.0, 0.0),
        c1=(0.0, 1 / 4, 1.0, 1 / 4),
        lower_w=(-1.0, 4 / 3, 2 / 3, 0.0),
        lower_11=(-1.0, 4 / 3, -1 / 3, 0.0),
    ),
    "Roessler 2010, SIAM J. Numer. Anal. 48:922, SRIW1",
)


SRIW2 = StochasticRungeKutta(
    "sriw2",
    StochasticTableau(
        A0=((), (1.0,), (1 / 4, 1 / 4), ()),
        B0=((), (), (1.0, 1 / 2), ()),
        A1=((), (1 / 4,), (1.0,), (0.0, 0.0, 1 / 4)),
        B1=((), (-1 / 2,), (1.0,), (2.0, -1.0, 1 / 2)),
        alpha=(1 / 6, 1 / 6, 2 / 3, 0.0),
        beta_w=(-1.0, 4 / 3, 2 / 3, 0.0),
        beta_10=(2.0, -4 / 3, -2 / 3, 0.0),
        beta_11=(1.0, -4 / 3, 1 / 3, 0.0),
        beta_111=(-2.0, 5 / 3, -2 / 3, 1.0),
        c0=(0.0, 1.0, 1 / 2, 0.0),
        c1=(0.0, 1 / 4, 1.0, 1 / 4),
        lower_w=(-1.0, 4 / 3, 2 / 3, 0.0),
        lower_11=(1.0, -4 / 3, 1 / 3, 0.0),
    ),
    "Roessler 2010, SIAM J. Numer. Anal. 48:922, SRIW2",
)


def _sosri() -> StochasticTableau:
    """The published nodes c0 = A0 e lie outside the step, at -0.04 and 3.75, where f may not be defined.

    They are moved. In the expansion of y_1 the nodes of F stand first in  alpha.c0 h^2 f_t,  which asks for
    alpha.c0 = 1/2. Every other term that holds one has f_t or a derivative of it times an integral of order 1/2 with
    mean 0, so is of order h^(5/2) with mean of order h^3, which neither strong order 1.5 nor weak order 2 sees. For an
    f without t the method is the published one.
    """
    alpha = (1.140099274172029, -0.6401334255743456, 0.4736296532772559, 0.026404498125060714)
    beta_w = (-1.8453464565104432, 2.688764531100726, -0.2523866501071323, 0.40896857551684956)
    beta_11 = (0.4969658141589478, -0.5771202869753592, -0.12919702470322217, 0.2093514975196336)
    A1 = (
        (),
        (0.26204282091330466,),
        (0.20903646383505375, -0.1502377115150361),
        (0.05836595312746999, 0.6149440396332373, 0.08535117634046772),
    )
    node = 1 / (2 * (alpha[2] + alpha[3]))  # 0.99993
    return StochasticTableau(
        A0=(
            (),
            (-0.04199224421316468,),
            (2.842612915017106, -2.0527723684000727),
            (4.338237071435815, -2.8895936137439793, 2.3017575594644466),
        ),
        B0=(
            (),
            (-0.21641093549612528,),
            (1.5336352863679572, 0.26066223492647056),
            (-1.0536037558179159, 1.7015284721089472, -0.20725685784180017),
        ),
        A1=A1,
        B1=(
            (),
            (-0.5119011827621657,),
            (2.67767339866713, -4.9395031322250995),
            (0.15580956238299215, 3.2361551006624674, -1.4223118283355949),
        ),
        alpha=alpha,
        beta_w=beta_w,
        beta_10=(2.8453464565104425, -2.688764531100725, 0.2523866501071322, -0.40896857551684945),
        beta_11=beta_11,
        beta_111=(0.11522663875443433, -0.57877086147738, 0.2857851028163886, 0.17775911990655704),
        c0=(0.0, 0.0, node, node),
        c1=tuple(map(sum, A1)),
        lower_w=beta_w,
        lower_11=beta_11,
    )


SOSRI = StochasticRungeKutta("sosri", _sosri(), "Rackauckas & Nie 2018, arXiv 1804.04344, SOSRI")

STOCHASTIC = (SRA1, SRA3, SOSRA, SRIW1, SRIW2, SOSRI)
