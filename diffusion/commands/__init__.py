"""The commands of ``python -m diffusion``, one file each: its options, and what it does."""
