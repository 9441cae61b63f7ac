"""CMA-ES for many searches at once, as tensors on the device."""
