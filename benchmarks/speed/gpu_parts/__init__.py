"""The parts of `benchmarks/speed/gpu.py`: what each measures or checks on a device."""
