"""What is measured, one file a section; `sde` and `diffusion` are made of those that begin with their names."""

from validation.check import Section
from validation.sections.brownian import BROWNIAN
from validation.sections.diffusion import DIFFUSION
from validation.sections.diffusion_training import TRAINING
from validation.sections.ito import ITO
from validation.sections.ode import ODE
from validation.sections.sde import SDE

SECTIONS: dict[str, Section] = {section.name: section for section in (ODE, SDE, ITO, BROWNIAN, DIFFUSION, TRAINING)}
