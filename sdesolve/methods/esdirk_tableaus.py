"""The diagonally implicit Runge-Kutta methods for stiff ODEs: their coefficients and where these stand."""

from __future__ import annotations

from sdesolve.methods.esdirk import ESDIRK, Tableau
from sdesolve.methods.printed import float_rows, floats, read_rows


class BackwardEuler(ESDIRK):
    """Implicit Euler,  y_1 = y + h f(t_1, y_1):  order 1, L-stable.

    The error is the difference to the trapezoidal rule, h/2 (f_1 - f) times (I - h J)^-1, of order 2.
    """

    name, order = "implicit_euler", 1
    tableau = Tableau(((), (0.0,)), 1.0, (0.0, 1.0), (0.5, 0.5), 2)
    source = "Hairer & Wanner II, (IV.3.3)"


def _trbdf2() -> Tableau:
    root = 2**0.5
    d, w = 1 - root / 2, root / 4
    return Tableau(((), (d,), (w, w)), d, (0.0, 2 * d, 1.0), ((1 - w) / 3, (3 * w + 1) / 3, d / 3), 3)


class TRBDF2(ESDIRK):
    """The trapezoidal rule to t + (2 - sqrt 2) h, and from there the backward differentiation formula of order 2: order
    2, L-stable. Embedded is a method of order 3."""

    name, order = "trbdf2", 2
    tableau = _trbdf2()
    source = "Bank et al. 1985, IEEE Trans. Electron Devices 32:1992; Hosea & Shampine 1996, Appl. Numer. Math. 20:21"


def _kvaerno3() -> Tableau:
    # of 6 x^3 - 18 x^2 + 9 x - 1, for R(oo) = 0
    x = 0.43586652150845899942
    third = ((-4 * x * x + 6 * x - 1) / (4 * x), (1 - 2 * x) / (4 * x))
    last = ((6 * x - 1) / (12 * x), -1 / ((24 * x - 12) * x), (-6 * x * x + 6 * x - 1) / (6 * x - 3))
    return Tableau(((), (x,), third, last), x, (0.0, 2 * x, 1.0, 1.0), (*third, x, 0.0), 2)


class Kvaerno3(ESDIRK):
    """Kvaerno's method of order 3(2) in four stages: L-stable. The embedded method, which is the third stage, is
    A-stable."""

    name, order = "kvaerno3", 3
    tableau = _kvaerno3()
    source = "Kvaerno 2004, BIT Numer. Math. 44:489"


def _kencarp4() -> Tableau:
    a = read_rows(
        """
        ;
        1/4;
        8611/62500 -1743/31250;
        5012029/34652500 -654441/2922500 174375/388108;
        15267082809/155376265600 -71443401/120774400 730878875/902184768 2285395/8070912;
        82889/524892 0 15625/83664 69875/102672 -2260/8211
        """
    )
    explicit = read_rows(
        """
        ;
        1/2;
        13861/62500 6889/62500;
        -116923316275/2393684061468 -2731218467317/15368042101831 9408046702089/11113171139209;
        -451086348788/2902428689909 -2682348792572/7519795681897 12662868775082/11960479115383
        3355817975965/11060851509271;
        647845179188/3216320057751 73281519250/8382639484533 552539513391/3454668386233
        3354512671639/8306763924573 4040/17871
        """
    )
    dense = read_rows(
        """
        6943876665148/7220017795957 -54480133/30881146 6818779379841/7100303317025;
        0 0 0;
        7640104374378/9702883013639 -11436875/14766696 2173542590792/12501825683035;
        -20649996744609/7521556579894 174696575/18121608 -31592104683404/5083833661969;
        8854892464581/2390941311638 -12120380/966161 61146701046299/7138195549469;
        -11397109935349/6675773540249 3843/706 -17219254887155/4939391667607
        """
    )
    lower = """
        4586570599/29645900160 0 178811875/945068544 814220225/1159782912 -3700637/11593932 61727/225920
    """
    c = floats("0 1/2 83/250 31/50 17/20 1")
    return Tableau(float_rows(a), 0.25, c, floats(lower), 3, float_rows(explicit), float_rows(dense))


class KenCarp4(ESDIRK):
    """ARK4(3)6L[2]SA: order 4(3), L-stable for f. Of an :class:`sdesolve.SplitODE` its explicit half takes the part
    ``nonstiff``; any other problem is all stiff."""

    name, order = "kencarp4", 4
    tableau = _kencarp4()
    source = "Kennedy & Carpenter 2003, Appl. Numer. Math. 44:139, ARK4(3)6L[2]SA"


def _kennedy_carpenter5() -> Tableau:
    rows = read_rows(
        """
        ;
        23/125;
        791020047304/3561426431547;
        -158159076358/11257294102345 -85517644447/5003708988389;
        -1653327111580/4048416487981 1514767744496/9099671765375 14283835447591/12247432691556;
        -4540011970825/8418487046959 -1790937573418/7393406387169 10819093665085/7266595846747
        4109463131231/7386972500302;
        -188593204321/4778616380481 2809310203510/10304234040467 1021729336898/2364210264653
        870612361811/2470410392208 -1307970675534/8059683598661;

        -582099335757/7214068459310 615023338567/3362626566945 3192122436311/6174152374399
        6156034052041/14430468657929 -1011318518279/9693750372484 1914490192573/13754262428401
        """
    )
    # the first two weights of each row are the same, as all stages have order 2
    twice = tuple((row[0], *row) for row in rows[2:])
    c = floats("0 46/125 7121331996143/11335814405378 49/353 3706679970760/5295570149437 347/382 1")
    return Tableau(float_rows((*rows[:2], *twice[:-1])), 0.184, c, floats(twice[-1]), 4)


class ESDIRK54(ESDIRK):
    """ESDIRK5(4)7L[2]SA2: order 5(4), L-stable, with all nodes inside the step."""

    name, order = "esdirk54", 5
    tableau = _kennedy_carpenter5()
    source = "Kennedy & Carpenter 2019, Appl. Numer. Math. 146:221, ESDIRK5(4)7L[2]SA2"


STIFF = (BackwardEuler(), TRBDF2(), Kvaerno3(), KenCarp4(), ESDIRK54())
