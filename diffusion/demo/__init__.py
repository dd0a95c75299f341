"""The main job on real data: handwritten digits, from training to pictures and bits per dimension."""

from .run import DemoSettings, run_demo

__all__ = ["DemoSettings", "run_demo"]
