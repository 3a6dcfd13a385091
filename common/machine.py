"""What a measurement was made on, in a line."""

import os
import platform
from pathlib import Path

import torch


def describe_machine(device: torch.device) -> str:
    """Return processor, cores, memory, and the GPU where `device` is one."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    found = f"{_processor()}, {os.cpu_count()} cores, {memory:.0f} GiB"
    if device.type == "cuda":
        found += f", {torch.cuda.get_device_name(device)}"
    return found


def _processor() -> str:
    """Return the processor's name as Linux tells it, or its kind."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() in ("model name", "Model"):
                return value.strip()
    except OSError:
        pass
    return platform.machine()
