"""What it saves training on a CPU that freed memory is kept: processor time of a step, with and without.

python benchmarks/malloc.py [STEPS]
"""

from __future__ import annotations

import sys
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

CROP, WARM_UP = (64, 96, 80), 1


def cpu_seconds(kept: bool, steps: int) -> float:
    """Processor time of a step of the segmenter's training in bfloat16, in a process of its own."""
    import torch

    from l2snet.networks.unet3d import UNet3D
    from l2snet.parallel import keep_freed_memory

    if kept:
        keep_freed_memory()
    torch.manual_seed(0)
    network = UNet3D(norm="batch").to(memory_format=torch.channels_last_3d)
    image = torch.rand(1, 2, *CROP)
    for step in range(WARM_UP + steps):
        if step == WARM_UP:
            began = time.process_time()
        with torch.autocast("cpu", torch.bfloat16):
            loss = network(image).float().square().mean()
        loss.backward()
    return (time.process_time() - began) / steps


def main() -> None:
    """Print the table."""
    steps = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with ProcessPoolExecutor(2, get_context("spawn"), max_tasks_per_child=1) as pool:
        given_back, kept = (pool.submit(cpu_seconds, way, steps).result() for way in (False, True))
    print(f"| freed memory | CPU s a step |\n|---|---|\n| given back | {given_back:.2f} |\n| kept | {kept:.2f} |")
    print(f"\n{given_back / kept:.2f} times the processor time where it is given back; crop {CROP}, {steps} steps")


if __name__ == "__main__":
    main()
