"""Run a command with the emulated GPU: ``python -m tests.gpu_on_cpu COMMAND ...``."""

import argparse
import os
import sys
from pathlib import Path

from tests.gpu_on_cpu.emulator import Unavailable, device_name, environment

DESCRIPTION = """\
Run a command in which OpenVINO lists a GPU: its GPU plugin runs its OpenCL kernels on the CPU.
Use it for right and wrong, never for speed. Without COMMAND, set it up and print the GPU's name."""

EXAMPLES = """\
examples:
  python -m tests.gpu_on_cpu
  python -m tests.gpu_on_cpu kl-lens bench out/* --devices CPU,GPU
  python -m tests.gpu_on_cpu --older python -m tests.gpu_on_cpu.compare request.json

An Arc 140V's own settings for the plugin: KV_CACHE_PRECISION=f16 and DYNAMIC_QUANTIZATION_GROUP_SIZE=0.
GPU_ON_CPU_CACHE names the folder that the set-up is kept in, GPU_ON_CPU_LOG a file for builds and launches
that fail, and GPU_ON_CPU_COUNTS a file for each process's numbers of synchronisations and launches."""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.gpu_on_cpu",
        usage="%(prog)s [--older] [--out-of-order] [COMMAND ...]",
        description=DESCRIPTION,
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--older", action="store_true", help="answer as a GPU of Meteor Lake, not as an Arc 140V"
    )
    parser.add_argument(
        "--out-of-order", action="store_true", help="give the plugin out-of-order queues, as older GPUs have"
    )
    parser.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="what to run")
    arguments = parser.parse_args()
    try:
        variables = environment(older=arguments.older, out_of_order=arguments.out_of_order)
        if not arguments.command:
            print(device_name(variables))
            return 0
    except Unavailable as error:
        print(error, file=sys.stderr)
        return 1
    # `kl-lens` and `python` are this environment's, whether or not it is activated.
    variables["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), variables.get("PATH", os.defpath)])
    sys.stdout.flush()
    try:
        os.execvpe(arguments.command[0], arguments.command, variables)
    except OSError as error:
        print(f"{arguments.command[0]} cannot be run: {error.strerror}.", file=sys.stderr)
        return 127


if __name__ == "__main__":
    sys.exit(main())
