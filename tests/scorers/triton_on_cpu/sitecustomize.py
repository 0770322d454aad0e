"""Lets vLLM's V2 runner start without a GPU: its Triton kernels run in Triton's own interpreter.

vLLM wants a backend called "cpu", which Triton's wheels lack; the interpreter needs none. Python
imports this module at its start where its folder is on PYTHONPATH.
"""

from triton import backends
from triton.backends.driver import DriverBase


class CpuDriver(DriverBase):
    """Answers the questions that are asked of a driver, and drives nothing."""

    def __init__(self):
        pass

    @classmethod
    def is_active(cls):
        return True

    def get_current_target(self):
        return None

    def get_active_torch_device(self):
        return None

    def get_benchmarker(self):
        return None

    def map_python_to_cpp_type(self, ty):
        return ty


backend = type(backends.backends["nvidia"])
backends.backends.clear()
backends.backends["cpu"] = backend(compiler=None, driver=CpuDriver)
